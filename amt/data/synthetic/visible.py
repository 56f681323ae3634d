"""Which joints and vertices a camera sees: rays against the scene's triangles, in float64.

A vertex is visible where no surface lies between it and the camera. A joint lies inside the hand: it is visible where the first
surface on the way to it is the hand's own and at most the joint's depth of flesh in front of it (amt.data.visibility.FLESH). A
point outside the picture is not visible. Triangles that meet at a vertex, or at a fingertip, do not hide it. Forearm, sleeve,
objects and occluders do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amt.data.synthetic.render import Body, Camera
from amt.data.visibility import FLESH
from amt.hand.skeleton import TIPS

IN_A_ROW = 32  # points, where they are spread evenly


class Visible(NamedTuple):
    """What a camera sees of the hand."""

    joints: np.ndarray  # bool [21]
    vertices: np.ndarray  # bool [V]


class View:
    """A body as a camera sees it: what many points are looked for behind."""

    def __init__(self, camera: Camera, body: Body):
        self.faces = np.ascontiguousarray(np.transpose(body.faces))  # int [3, F]
        self.vertices = body.vertices @ camera.rotation.T + camera.translation  # float64 [V, 3], m, camera frame
        depth = self.vertices[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = np.ascontiguousarray((self.vertices[:, :2] / depth[:, None]).T)
        corners = [plane[:, corner] for corner in self.faces]
        self.low, self.high = _least(corners, np.minimum), _least(corners, np.maximum)  # float64 [2, F]: bounds
        depths = [depth[corner] for corner in self.faces]
        self.nearest = _least(depths, np.minimum)  # float64 [F], m
        behind = self.nearest <= 1e-9  # a triangle that reaches behind the camera has no bounds
        self.low[:, behind], self.high[:, behind] = -np.inf, np.inf

    def first(self, points: np.ndarray, vertex: np.ndarray | None = None) -> np.ndarray:
        """Where the ray to each point first meets the body: float64 [N], 0 at the camera, 1 at the point.

        1 where nothing lies between. A ray and a triangle a, b, c meet where the volumes of (p, a, b), (p, b, c) and (p, c, a)
        have one sign.

        Args:
            points: float64 [N, 3], m, in the camera's frame.
            vertex: int [N]: which vertex of the body a point is, -1 for none; its triangles are left out.
        """
        first = np.ones(len(points))
        if not len(points):
            return first
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = np.ascontiguousarray((points[:, :2] / points[:, 2:]).T)  # [2, N]
        # What lies beside all points, or begins behind the farthest, hides none.
        (left, top), (right, bottom) = flat.min(1), flat.max(1)
        beside = (self.high[0] >= left) & (self.high[1] >= top) & (self.low[0] <= right) & (self.low[1] <= bottom)
        near = np.flatnonzero(beside & (self.nearest < points[:, 2].max()))
        if not len(near):
            return first
        which, face = _candidates(flat, self.low[:, near], self.high[:, near])
        face = near[face]
        if vertex is not None:
            own = vertex[which]
            apart = (self.faces[0][face] != own) & (self.faces[1][face] != own) & (self.faces[2][face] != own)
            which, face = which[apart], face[apart]
        some, face = np.unique(face, return_inverse=True)
        a, b, c = (self.vertices[corner[some]] for corner in self.faces)
        across = np.stack((_cross(a, b), _cross(b, c), _cross(c, a)), 1)  # [F, 3, 3]: the volumes are linear in p
        whole = (across[:, 0] * c).sum(1)
        volumes = np.einsum("pkc,pc->pk", across[face], points[which])
        u, v, w = volumes.T
        inside = np.flatnonzero((u >= 0) & (v >= 0) & (w >= 0) | (u <= 0) & (v <= 0) & (w <= 0))
        which, face, total = which[inside], face[inside], volumes[inside].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = whole[face] / total
        hit = (total != 0) & (share > 0) & (share < 1)
        np.minimum.at(first, which[hit], share[hit])
        return first


def visibility(camera: Camera, hand: Body, others: list[View], joints: np.ndarray, tips: np.ndarray) -> Visible:
    """What of the hand a camera sees.

    Args:
        others: all else that may hide the hand, as this camera sees it.
        joints: float64 [21, 3], m, in the frame of the bodies.
        tips: int [5]: the vertices that the fingertips are.
    """
    own = np.full(len(joints), -1)
    own[list(TIPS)] = tips
    points = np.concatenate((joints, hand.vertices))
    vertex = np.concatenate((own, np.arange(len(hand.vertices))))
    flesh = np.concatenate((FLESH, np.zeros(len(hand.vertices))))
    pixel = np.rint(camera.pixels(points))
    inside = ((pixel >= 0) & (pixel < (camera.width, camera.height))).all(1)
    seen_from = points @ camera.rotation.T + camera.translation
    first = View(camera, hand).first(seen_from, vertex)
    depth = points @ camera.rotation[2] + camera.translation[2]
    near = np.flatnonzero(inside & (depth * (1 - first) <= flesh))
    for view in others:
        near = near[view.first(seen_from[near]) >= first[near]]
    seen = np.zeros(len(points), bool)
    seen[near] = True
    return Visible(seen[: len(joints)], seen[len(joints) :])


def _least(three: list[np.ndarray], of) -> np.ndarray:
    return of(of(three[0], three[1]), three[2])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [F, 3]: cross products of vectors [F, 3], without the checks of numpy.cross."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), 1)


def _candidates(flat: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of points [2, N] and of bounds [2, F] in the picture's plane that they lie in: int [P] and int [P].

    Points are sorted by rows of cells and, in a row, by x; bounds look into the rows that they reach. Every step from a
    coordinate to a key is monotonic, also as rounded, so none is missed.
    """

    def share(values: np.ndarray, axis: int) -> np.ndarray:
        """0 to 1 between the points' bounds."""
        start, length = flat[axis].min(), np.ptp(flat[axis])
        if not 0 < length < np.inf:
            return np.zeros(len(values))
        return np.clip((values - start) / length, 0, 1)

    rows = 1 + len(flat[0]) // IN_A_ROW

    def row_of(values: np.ndarray) -> np.ndarray:
        return np.minimum((share(values, 1) * rows).astype(np.int64), rows - 1)

    key = 2.0 * row_of(flat[1]) + share(flat[0], 0)
    order = np.argsort(key)
    key = key[order]
    start, stop = row_of(low[1]), row_of(high[1]) + 1
    face, row = _ranges(start, stop)
    left, right = 2.0 * row + share(low[0], 0)[face], 2.0 * row + share(high[0], 0)[face]
    owner, place = _ranges(np.searchsorted(key, left, "left"), np.searchsorted(key, right, "right"))
    which, face = order[place], face[owner]
    x, y = flat[0][which], flat[1][which]
    within = (x >= low[0][face]) & (x <= high[0][face]) & (y >= low[1][face]) & (y <= high[1][face])
    return which[within], face[within]


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers from ``start`` [N] to before ``stop`` [N], and the range that each belongs to: int [P] and int [P]."""
    count = stop - start
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count - start, count)
