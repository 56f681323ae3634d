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


class Visible(NamedTuple):
    """What a camera sees of the hand."""

    joints: np.ndarray  # bool [21]
    vertices: np.ndarray  # bool [V]


def visibility(camera: Camera, hand: Body, others: list[Body], joints: np.ndarray, tips: np.ndarray) -> Visible:
    """What of the hand a camera sees.

    Args:
        others: all else that may hide the hand.
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
    first = first_surface(camera, points, hand, vertex)
    depth = points @ camera.rotation[2] + camera.translation[2]
    near = np.flatnonzero(inside & (depth * (1 - first) <= flesh))
    for body in others:
        near = near[first_surface(camera, points[near], body) >= first[near]]
    seen = np.zeros(len(points), bool)
    seen[near] = True
    return Visible(seen[: len(joints)], seen[len(joints) :])


def first_surface(camera: Camera, points: np.ndarray, body: Body, vertex: np.ndarray | None = None) -> np.ndarray:
    """Where the ray from the camera's centre to each point first meets a body: float64 [N], 0 at the camera, 1 at the point.

    1 where nothing lies between. A ray and a triangle a, b, c meet where the volumes of (p, a, b), (p, b, c) and (p, c, a) have
    one sign.

    Args:
        points: float64 [N, 3], m.
        vertex: int [N]: which vertex of the body a point is, -1 for none; its triangles are left out.
    """
    points = points @ camera.rotation.T + camera.translation
    triangles = (body.vertices @ camera.rotation.T + camera.translation)[body.faces]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat, plane = points[:, :2] / points[:, 2:], triangles[..., :2] / triangles[..., 2:]
    low, high = plane.min(1), plane.max(1)
    behind = (triangles[..., 2] <= 1e-9).any(1)  # a triangle that reaches behind the camera has no bounds
    low[behind], high[behind] = -np.inf, np.inf
    first = np.ones(len(points))
    if not len(points):
        return first
    # What lies beside all points, or begins behind the farthest, hides none.
    near = (high >= flat.min(0)).all(1) & (low <= flat.max(0)).all(1) & (triangles[..., 2].min(1) < points[:, 2].max())
    near = np.flatnonzero(near)
    triangles = triangles[near]
    which, face = _candidates(flat, low[near], high[near])
    if vertex is not None:
        apart = (body.faces[near[face]] != vertex[which, None]).all(1)
        which, face = which[apart], face[apart]
    a, b, c = triangles.transpose(1, 0, 2)
    across = np.stack((np.cross(a, b), np.cross(b, c), np.cross(c, a)), 1)  # [F, 3, 3]: the volumes are linear in p
    whole = (across[:, 0] * c).sum(1)
    volumes = np.einsum("pkc,pc->pk", across[face], points[which])
    inside = (volumes >= 0).all(1) | (volumes <= 0).all(1)
    which, face, total = which[inside], face[inside], volumes[inside].sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = whole[face] / total
    hit = (total != 0) & (share > 0) & (share < 1)
    np.minimum.at(first, which[hit], share[hit])
    return first


def _candidates(flat: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of points [N, 2] and of bounds [F, 2] in the picture's plane that they lie in: int [P] and int [P]."""
    order = np.argsort(flat[:, 0], kind="stable")
    row = flat[order, 0]
    first, last = np.searchsorted(row, low[:, 0], "left"), np.searchsorted(row, high[:, 0], "right")
    count = last - first
    face = np.repeat(np.arange(len(low)), count)
    within = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    which = order[first[face] + within]
    y = flat[which, 1]
    near = (y >= low[face, 1]) & (y <= high[face, 1])
    return which[near], face[near]
