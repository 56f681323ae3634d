"""BOP's distance pictures and VSD of a box, by another way than amt.evaluate's: slabs."""

import numpy as np


def ray_lengths(k):
    y, x = np.mgrid[:480, :640]
    return np.sqrt(((x - k[0, 2]) / k[0, 0]) ** 2 + ((y - k[1, 2]) / k[1, 1]) ** 2 + 1)


def box_distances(rotation, translation, k):
    """Distance to a box from (0, 0, 0) to (0.06, 0.1, 0.15) of its own frame, by slabs."""
    y, x = np.mgrid[:480, :640]
    rays = np.stack(((x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones(x.shape)), -1)
    direction, origin = rays @ rotation, -translation @ rotation
    ends = np.stack([(side - origin) / direction for side in (np.zeros(3), np.array((0.06, 0.1, 0.15)))])
    near, far = ends.min(0).max(-1), ends.max(0).min(-1)
    return np.where((near <= far) & (near > 0), near, 0) * np.linalg.norm(rays, axis=-1)


def discrepancy(found, true, scene, size):
    visible_true = (true > 0) & ((true - scene <= 0.015) | (scene == 0))
    visible = (found > 0) & ((found - scene <= 0.015) | (scene == 0) | visible_true)
    both, either = visible & visible_true, visible | visible_true
    return [
        ((np.abs(found - true)[both] / size >= tau).sum() + either.sum() - both.sum()) / either.sum()
        for tau in np.arange(1, 11) * 0.05
    ]
