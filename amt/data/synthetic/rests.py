"""How an object lies on a table: the sides of its convex hull on which it stays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from amt.data.synthetic.objects import Shape

UPRIGHT = 0.15  # sine of the least elevation of an arm above the table
SUNK = 0.002  # m that soft skin may lie below the table's top
TIP, TALL = (
    0.15,
    2.2,
)  # a rest whose base is narrower and whose height is greater than that of the lowest rest is left out
APART = 0.94  # cosine between two rests that count as two
MOST_RESTS = 16


@dataclass(frozen=True)
class Rests:
    """How an object may lie on a table: the table's upward direction and height in the object's frame."""

    up: np.ndarray  # float64 [K, 3], unit
    height: np.ndarray  # float64 [K], m: of the table's top along ``up``

    def above(self, points: np.ndarray) -> np.ndarray:
        """float64 [..., K], m: how far the lowest of points [..., N, 3] lies above the table of each rest."""
        return (points @ self.up.T).min(-2) - self.height

    def allow(self, hands: list[np.ndarray], arm: np.ndarray) -> np.ndarray:
        """bool [C, K]: whether hands, each [C, V, 3] (m), keep above the table, with arms [C, 3] that come from above it."""
        clear = np.min([self.above(hand) for hand in hands], axis=0) > -SUNK
        return clear & (arm @ self.up.T > UPRIGHT)


@cache
def rests(shape: Shape) -> Rests:
    """The stable rests of a shape: sides of its convex hull above which its centre of mass lies."""
    from scipy.spatial import ConvexHull

    vertices, faces = shape.mesh()
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c))
    centre = (volume[:, None] * (a + b + c)).sum(0) / (4 * volume.sum())
    hull = ConvexHull(vertices)
    down = hull.equations[:, :3]
    corners = vertices[hull.simplices] - centre
    # The centre, moved along the normal into the triangle's plane, lies on the same side of all three edges.
    sides = [np.einsum("ij,ij->i", np.cross(corners[:, k], corners[:, (k + 1) % 3]), down) for k in range(3)]
    inside = (np.array(sides) > -1e-9).all(0) | (np.array(sides) < 1e-9).all(0)
    height = -hull.equations[:, 3] - down @ centre  # of the centre above the side
    found: list[int] = []
    for k in np.flatnonzero(inside)[np.argsort(height[inside], kind="stable")]:
        if len(found) == MOST_RESTS or any(down[k] @ down[other] > APART for other in found):
            continue
        if not found or height[k] < TALL * height[found[0]] or _base(vertices, centre, hull.equations[k]) > TIP:
            found.append(int(k))
    return Rests(-down[found], hull.equations[found, 3])


def _base(vertices: np.ndarray, centre: np.ndarray, plane: np.ndarray) -> float:
    """Tangent of the angle by which an object on a side of its hull tips over."""
    from scipy.spatial import ConvexHull, QhullError

    normal = plane[:3]
    foot = vertices[vertices @ normal + plane[3] > -0.0005] - centre
    axes = np.linalg.svd(normal[None])[2][1:]
    try:
        polygon = ConvexHull(foot @ axes.T)
    except QhullError:
        return 0.0
    return float((-polygon.equations[:, 2]).min() / max(-(normal @ centre + plane[3]), 1e-6))
