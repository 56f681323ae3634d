"""Exact distances from points to a triangle mesh, and on which side they lie."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from amt.physics.solids import Solid

LONGEST_EDGE = 0.004  # m: longer edges are divided, so that few triangles lie near a point
MOST_PAIRS = 2_000_000  # of a point and a triangle, at once


class Surface:
    """A closed mesh that distances are asked of.

    Distances are to the triangles themselves, not to their vertices. The side is told by the angle-weighted normal at the
    nearest place (Bærentzen and Aanæs, "Signed Distance Computation Using the Angle Weighted Pseudonormal", 2005), which is
    exact on a closed mesh that does not pierce itself.
    """

    def __init__(self, solid: Solid):
        from scipy.spatial import cKDTree

        fine = solid.manifold.refine_to_length(LONGEST_EDGE).to_mesh64()
        self.vertices = np.array(fine.vert_properties[:, :3], np.float64)
        self.faces = np.array(fine.tri_verts, np.int64)
        self.corners = self.vertices[self.faces]  # [F, 3, 3]
        centres = self.corners.mean(1)
        self.radius = float(np.linalg.norm(self.corners - centres[:, None], axis=2).max())
        self.tree = cKDTree(centres)

    def distances(self, points: np.ndarray) -> np.ndarray:
        """float64 [N], m: of points float [N, 3] (m) to the surface."""
        return self._nearest(np.asarray(points, np.float64))[0]

    def signed(self, points: np.ndarray) -> np.ndarray:
        """float64 [N], m: below 0 inside, above 0 outside."""
        points = np.asarray(points, np.float64)
        distance, offset, face, weights = self._nearest(points)
        faces, edges, corners = self._normals
        # 0, 1 or 2 corners with weight 0: inside the triangle, on an edge, at a corner
        on = weights > 1e-9
        count = on.sum(1)
        normal = faces[face].copy()
        edge = count == 2
        normal[edge] = edges[face[edge], np.argmin(on[edge], axis=1)]
        corner = count == 1
        normal[corner] = corners[self.faces[face[corner], np.argmax(on[corner], axis=1)]]
        return np.where(np.einsum("nc,nc->n", offset, normal) < 0, -distance, distance)

    def farthest_outside(self, points: np.ndarray) -> float:
        """m: the largest distance of a point outside; NaN where none is outside."""
        points = np.asarray(points, np.float64)
        least = self.tree.query(points)[0]
        # in the order of a bound from above, until no other point can lie farther
        best = np.nan
        for some in np.array_split(np.argsort(-least), max(1, len(points) // 64)):
            if best >= least[some[0]]:
                break
            signed = self.signed(points[some])
            best = np.nanmax([best, signed.max()]) if (signed > 0).any() else best
        return float(best)

    def _nearest(self, points: np.ndarray):
        """Distance [N], offset from the nearest place [N, 3], its triangle [N], and the place's barycentric weights [N, 3]."""
        if not len(points):
            return np.zeros(0), np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros((0, 3))
        first = self.tree.query(points)[1]
        bound = np.linalg.norm(points - _places(_closest(points, self.corners[first]), self.corners[first]), axis=1)
        reach = bound + self.radius + 1e-12
        counts = self.tree.query_ball_point(points, reach, return_length=True)
        ends = np.cumsum(counts)
        pieces = np.searchsorted(ends, np.arange(MOST_PAIRS, ends[-1], MOST_PAIRS)) if ends[-1] > MOST_PAIRS else []
        found = [self._among(points[part], reach[part]) for part in np.array_split(np.arange(len(points)), pieces)]
        return tuple(np.concatenate(values) for values in zip(*found))

    def _among(self, points: np.ndarray, reach: np.ndarray):
        near = self.tree.query_ball_point(points, reach)
        counts = np.array([len(each) for each in near], np.int64)
        if not len(points):
            return np.zeros(0), np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros((0, 3))
        face, owner = np.concatenate(near).astype(np.int64), np.repeat(np.arange(len(points)), counts)
        corners = self.corners[face]
        weights = _closest(points[owner], corners)
        offset = points[owner] - _places(weights, corners)
        distance = np.linalg.norm(offset, axis=1)
        order = np.lexsort((distance, owner))
        best = order[np.cumsum(counts) - counts]
        return distance[best], offset[best], face[best], weights[best]

    @cached_property
    def _normals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of triangles [F, 3], of the edges opposite to their corners [F, 3, 3], and of vertices [V, 3]."""
        a, b, c = (self.corners[:, k] for k in range(3))
        normal = np.cross(b - a, c - a)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        at = np.zeros_like(self.vertices)
        for k in range(3):
            u, v = (self.corners[:, (k + s) % 3] - self.corners[:, k] for s in (1, 2))
            cosine = np.einsum("nc,nc->n", u, v) / np.maximum(
                np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1), 1e-30
            )
            np.add.at(at, self.faces[:, k], normal * np.arccos(np.clip(cosine, -1, 1))[:, None])
        ends = np.stack([self.faces[:, [(k + 1) % 3, (k + 2) % 3]] for k in range(3)], 1)  # opposite to corner k
        pairs = np.sort(ends.reshape(-1, 2), axis=1)
        number = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        sums = np.zeros((number.max() + 1, 3))
        np.add.at(sums, number, np.repeat(normal, 3, axis=0))
        return normal, sums[number].reshape(-1, 3, 3), at


def _places(weights: np.ndarray, corners: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nkc->nc", weights, corners)


def _closest(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric weights [N, 3] of the places of triangles [N, 3, 3] that are nearest to points [N, 3].

    The regions of Ericson, "Real-Time Collision Detection" (2005), section 5.1.5.
    """
    a, b, c = (corners[:, k] for k in range(3))
    ab, ac = b - a, c - a

    def dot(x, y):
        return np.einsum("nc,nc->n", x, y)

    d1, d2 = dot(ab, points - a), dot(ac, points - a)
    d3, d4 = dot(ab, points - b), dot(ac, points - b)
    d5, d6 = dot(ab, points - c), dot(ac, points - c)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    with np.errstate(divide="ignore", invalid="ignore"):
        total = va + vb + vc
        v, w = vb / total, vc / total
        found = np.stack([1 - v - w, v, w], 1)  # inside the triangle
        t = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        on = (va <= 0) & (d4 >= d3) & (d5 >= d6)
        found[on] = np.stack([np.zeros_like(t), 1 - t, t], 1)[on]
        t = d2 / (d2 - d6)
        on = (vb <= 0) & (d2 >= 0) & (d6 <= 0)
        found[on] = np.stack([1 - t, np.zeros_like(t), t], 1)[on]
        t = d1 / (d1 - d3)
        on = (vc <= 0) & (d1 >= 0) & (d3 <= 0)
        found[on] = np.stack([1 - t, t, np.zeros_like(t)], 1)[on]
    found[(d6 >= 0) & (d5 <= d6)] = (0, 0, 1)
    found[(d3 >= 0) & (d4 <= d3)] = (0, 1, 0)
    found[(d1 <= 0) & (d2 <= 0)] = (1, 0, 0)
    degenerate = ~np.isfinite(found).all(1)  # a triangle without area
    found[degenerate] = (1, 0, 0)
    return found
