"""Contact and distances between hand and object, both ways: the truth that contact.npz holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amt.data.synthetic.skin import vertex_normals

EXACT = 0.02  # m
NEAREST = 6  # triangles, by their middles, among which the nearest one is looked for: a hand's are alike in size


class Nearest(NamedTuple):
    """The places of a mesh that are nearest to points."""

    signed: np.ndarray  # float64 [N], m: distance, negative behind the surface
    triangles: np.ndarray  # int64 [N]
    weights: np.ndarray  # float64 [N, 3]: barycentric
    normals: np.ndarray  # float64 [N, 3]: the mesh's smooth normals there, outward; not of unit length


def nearest_on_mesh(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> Nearest:
    """The nearest places of a mesh of small triangles to points [N, 3].

    Beyond :data:`EXACT` it is the middle of the nearest triangle. The sign tells on which side of the mesh's
    smooth normal at the nearest place a point lies. A hand is open at the wrist: there it is the side of the rim.

    Args:
        vertices: float64 [V, 3], m; faces: int [F, 3], counter-clockwise from outside.
    """
    from scipy.spatial import cKDTree

    corners, normals = vertices[faces], vertex_normals(vertices, faces)[faces]
    middles = corners.mean(1)
    count = min(NEAREST, len(faces))
    length, near = cKDTree(middles, balanced_tree=False).query(points, count)
    near = near.reshape(len(points), count)
    triangles, weights = near[:, 0].copy(), np.full((len(points), 3), 1 / 3)
    facing = normals[triangles].mean(1)
    side = np.einsum("nc,nc->n", points - middles[triangles], facing)
    signed = np.copysign(length.reshape(near.shape)[:, 0], side)
    exact = np.flatnonzero(np.abs(signed) < EXACT)
    place, near = points[exact, None], near[exact]
    shares = closest_weights(place, *np.moveaxis(corners[near], 2, 0))
    offset = place - np.einsum("nkw,nkwc->nkc", shares, corners[near])
    square = np.einsum("nkc,nkc->nk", offset, offset)
    rows, best = np.arange(len(exact)), square.argmin(1)
    triangles[exact], weights[exact] = near[rows, best], shares[rows, best]
    facing[exact] = np.einsum("nw,nwc->nc", weights[exact], normals[triangles[exact]])
    side = np.einsum("nc,nc->n", offset[rows, best], facing[exact])
    signed[exact] = np.copysign(np.sqrt(square[rows, best]), side)
    return Nearest(signed, triangles, weights, facing)


def distances_to_mesh(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """float32 [N], m: the signed distances of :func:`nearest_on_mesh`."""
    return nearest_on_mesh(points, vertices, faces).signed.astype(np.float32)


def nearest_places(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The places [..., 3] on triangles a, b, c [..., 3] that are nearest to points p [..., 3]."""
    weights = closest_weights(p, a, b, c)
    return weights[..., :1] * a + weights[..., 1:2] * b + weights[..., 2:] * c


def closest_weights(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Barycentric weights [..., 3] of the place on triangles a, b, c [..., 3] that is nearest to points p [..., 3].

    Ericson, "Real-Time Collision Detection" (2005), 5.1.5: which of the triangle's seven regions a point lies in.
    """

    def dot(x, y):
        return np.einsum("...c,...c->...", x, y)

    ab, ac, ap = b - a, c - a, p - a
    d1, d2 = dot(ab, ap), dot(ac, ap)
    d3, d4 = d1 - dot(ab, ab), d2 - dot(ab, ac)
    d5, d6 = d1 - dot(ab, ac), d2 - dot(ac, ac)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    with np.errstate(divide="ignore", invalid="ignore"):
        on_ab, on_ac = d1 / (d1 - d3), d2 / (d2 - d6)
        on_bc = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        total = va + vb + vc
        v, w = vb / total, vc / total
        zero, one = np.zeros_like(d1), np.ones_like(d1)
        regions = (
            ((d1 <= 0) & (d2 <= 0), (zero, zero)),
            ((d3 >= 0) & (d4 <= d3), (one, zero)),
            ((d6 >= 0) & (d5 <= d6), (zero, one)),
            ((vc <= 0) & (d1 >= 0) & (d3 <= 0), (on_ab, zero)),
            ((vb <= 0) & (d2 >= 0) & (d6 <= 0), (zero, on_ac)),
            ((va <= 0) & (d4 >= d3) & (d5 >= d6), (1 - on_bc, on_bc)),
        )
        conditions = [condition for condition, _ in regions]
        v = np.select(conditions, [place[0] for _, place in regions], v)
        w = np.select(conditions, [place[1] for _, place in regions], w)
    return np.stack((1 - v - w, v, w), -1)
