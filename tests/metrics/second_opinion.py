"""Every metric a second time, in NumPy and SciPy, one sample at a time and by another way where there is one."""

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation


def absolute(a, b):
    return np.sqrt(((a - b) ** 2).sum(-1)) * 1000


def wrist_aligned(a, b):
    return np.stack([absolute(x - x[0], y - y[0]) for x, y in zip(a, b)])


def procrustes(a, b):
    """As the public evaluators: mm, 1e-8 mm added to each norm, SciPy's orthogonal_procrustes."""
    rows = []
    for x, y in zip(a * 1000, b * 1000):
        x0, y0 = x - x.mean(0), y - y.mean(0)
        nx, ny = np.sqrt((x0**2).sum()) + 1e-8, np.sqrt((y0**2).sum()) + 1e-8
        rotation, scale = orthogonal_procrustes(y0 / ny, x0 / nx)
        rows.append(np.sqrt((((x0 / nx) @ rotation.T * scale * ny - y0) ** 2).sum(-1)))
    return np.stack(rows)


def pck(errors, limits):
    return np.array([[np.mean(column <= limit) for column in errors.T] for limit in limits])


def auc(errors, limits):
    shares = pck(errors, limits)
    steps = np.diff(limits)
    area = [(steps * (column[1:] + column[:-1]) / 2).sum() / (limits[-1] - limits[0]) for column in shares.T]
    return float(np.mean(area))


def spread(a, b):
    def deviation(x):
        x = (x - x[:, :1])[:, 1:]
        return np.sqrt(x.var(axis=0).sum(-1))

    return deviation(a) / np.maximum(deviation(b), 1e-9)


def f_score(a, b, limit):
    scores = []
    for x, y in zip(a, b):
        near = cdist(x, y) * 1000 < limit
        p, r = near.any(1).mean(), near.any(0).mean()
        scores.append(0.0 if p + r == 0 else 2 / (1 / p + 1 / r))
    return np.array(scores)


def add(a, b):
    return np.array([np.linalg.norm(x - y, axis=1).mean() * 1000 for x, y in zip(a, b)])


def adds(a, b):
    return np.array(
        [[cKDTree(y).query(x)[0].mean() * 1000, cKDTree(x).query(y)[0].mean() * 1000] for x, y in zip(a, b)]
    ).T


def mce(a, b):
    def corners(x):
        low, high = x.min(0), x.max(0)
        return np.array(
            [[(low, high)[i][0], (low, high)[j][1], (low, high)[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        )

    return np.array([np.mean(np.linalg.norm(corners(x) - corners(y), axis=1)) * 1000 for x, y in zip(a, b)])


def rotation(a, b, symmetries):
    return np.array(
        [
            min(
                np.degrees((Rotation.from_matrix(x).inv() * Rotation.from_matrix(y @ s)).magnitude())
                for s in symmetries
            )
            for x, y in zip(a, b)
        ]
    )


def mssd(r, t, true_r, true_t, points, symmetries):
    return np.array(
        [
            1000
            * min(
                np.abs(np.linalg.norm((points @ a.T + b) - ((points @ s.T) @ c.T + d), axis=1)).max()
                for s in symmetries
            )
            for a, b, c, d in zip(r, t, true_r, true_t)
        ]
    )


def mspd(r, t, true_r, true_t, points, k, symmetries):
    def pixels(x):
        x = (k @ x.T).T
        return x[:, :2] / x[:, 2:]

    return np.array(
        [
            min(np.hypot(*(pixels(points @ a.T + b) - pixels((points @ s.T) @ c.T + d)).T).max() for s in symmetries)
            for a, b, c, d in zip(r, t, true_r, true_t)
        ]
    )


def vsd(predicted, true, scene, diameter, delta, taus):
    """Pixel by pixel."""
    costs, pixels = np.zeros(len(taus)), 0
    for p, t, s in zip(predicted.ravel(), true.ravel(), scene.ravel()):
        shows_true = t > 0 and (s == 0 or t - s <= delta)
        shows = p > 0 and (s == 0 or p - s <= delta or shows_true)
        if shows or shows_true:
            pixels += 1
            costs += [1.0 if not (shows and shows_true) or abs(p - t) / diameter >= tau else 0.0 for tau in taus]
    return costs / pixels if pixels else np.ones(len(taus))


def counts(a, b):
    hits = sum(1 for x, y in zip(a.ravel(), b.ravel()) if x and y)
    precision, recall = hits / max(a.sum(), 1), hits / max(b.sum(), 1)
    return precision, recall, 0.0 if hits == 0 else 2 / (1 / precision + 1 / recall)


def ece(p, event, bins):
    total = 0.0
    for k in range(bins):
        inside = (np.minimum(np.floor(p * bins), bins - 1) == k).ravel()
        if inside.any():
            total += inside.mean() * abs(p.ravel()[inside].mean() - event.ravel()[inside].mean())
    return total


def coverage(error, scale, levels):
    """By the distribution function of Laplace's law."""
    inside = 1 - np.exp(-np.abs(error) / scale[..., None])
    return np.array([[(inside[:, j] <= level).mean() for j in range(error.shape[1])] for level in levels])


def acceleration(a, b):
    return np.linalg.norm(np.diff(a, 2, axis=0) - np.diff(b, 2, axis=0), axis=-1) * 1000
