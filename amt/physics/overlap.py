"""How much two solids overlap: the exact volume, and how deep each reaches into the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amt.physics.distance import Surface
from amt.physics.solids import Solid

TOLERANCE = 5e-5  # m: of a depth
MOST_TRIANGLES = 20_000  # that are looked at together


class Overlap(NamedTuple):
    """Of a first and a second solid. All zero where they are apart."""

    volume: float  # m³
    first_depth: (
        float  # m: the largest distance of a place of the first's surface in the second to the second's surface
    )
    second_depth: float  # m: the same of the second one's surface in the first


def overlap(first: Solid, second: Solid, second_surface: Surface | None = None) -> Overlap:
    """Volume and depths of two solids.

    The volume is that of the mesh of the intersection. Its surface consists of the pieces of each solid's surface that lie in the
    other. Their triangles are divided where a deeper place may lie, with exact distances, until :data:`TOLERANCE`.

    Args:
        second_surface: of the second solid, where it is at hand.
    """
    if not _boxes_meet(first.vertices, second.vertices):
        return Overlap(0.0, 0.0, 0.0)
    common = first.manifold ^ second.manifold
    volume = float(common.volume())
    if common.is_empty() or volume <= 0:
        return Overlap(0.0, 0.0, 0.0)
    mesh = common.to_mesh64()
    corners = np.array(mesh.vert_properties[:, :3])[np.array(mesh.tri_verts, np.int64)]
    run = np.array(mesh.run_index, np.int64) // 3
    mine = np.zeros(len(corners), bool)
    for start, end, source in zip(run[:-1], run[1:], mesh.run_original_id):
        mine[start:end] = source == first.manifold.original_id()
    surfaces = Surface(first), second_surface or Surface(second)
    return Overlap(volume, deepest(surfaces[1], corners[mine]), deepest(surfaces[0], corners[~mine]))


def deepest(surface: Surface, corners: np.ndarray) -> float:
    """m: the largest distance to a surface of any place on triangles [N, 3, 3] (m), by branch and bound.

    A distance changes by at most the way: no place of a triangle is farther than its centre is, and the way from there to a
    corner.
    Where very many triangles may hold the largest distance (a flat face in a flat face) it has been found at their centres.
    """
    if not len(corners):
        return 0.0
    best = surface.farthest(corners.reshape(-1, 3))
    while len(corners):
        centres = corners.mean(1)
        reach = np.linalg.norm(corners - centres[:, None], axis=2).max(1)
        may = surface.bounds(centres) + reach > best + TOLERANCE
        corners, centres, reach = corners[may], centres[may], reach[may]
        at_most = surface.at_most(centres)
        best = surface.farthest(centres, at_most, best)
        corners = corners[at_most + reach > best + TOLERANCE]
        if 4 * len(corners) > MOST_TRIANGLES:
            break
        corners = _quartered(corners)
    return best


def _quartered(corners: np.ndarray) -> np.ndarray:
    """Four triangles for each one [N, 3, 3]."""
    middles = (corners + corners[:, [1, 2, 0]]) / 2
    outer = [np.stack([corners[:, k], middles[:, k], middles[:, k - 1]], 1) for k in range(3)]
    return np.concatenate([*outer, middles])


def _boxes_meet(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a.min(0) <= b.max(0)).all() and (b.min(0) <= a.max(0)).all())
