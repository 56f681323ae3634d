"""Exact distances from points to a triangle mesh, and on which side they lie."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from amt.physics.solids import Solid

LONGEST_EDGE = 0.005  # m: longer edges are divided, so that few triangles lie near a point
MOST_TRIANGLES = 200_000  # about: a larger object keeps longer edges, which costs time and no exactness
NEIGHBOURS = 6  # triangles by their centres that are looked at for every point
CHUNK = 1000  # points whose other triangles are looked at together


class Surface:
    """A closed mesh that distances are asked of.

    Distances are to the triangles themselves, not to their vertices. The side is told by the angle-weighted normal at the
    nearest place (Bærentzen and Aanæs, "Signed Distance Computation Using the Angle Weighted Pseudonormal", 2005), which is
    exact on a closed mesh that does not pierce itself.
    """

    def __init__(self, solid: Solid):
        from scipy.spatial import cKDTree

        edge = max(LONGEST_EDGE, (solid.manifold.surface_area() / MOST_TRIANGLES) ** 0.5)
        fine = solid.manifold.refine_to_length(edge).to_mesh64()
        self.vertices = np.array(fine.vert_properties[:, :3], np.float64)
        self.faces = np.array(fine.tri_verts, np.int64)
        self.corners = self.vertices[self.faces]  # [F, 3, 3]
        centres = self.corners.mean(1)
        self.centres, self.radii = centres, np.linalg.norm(self.corners - centres[:, None], axis=2).max(1)
        self.radius = float(self.radii.max())
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

    def bounds(self, points: np.ndarray) -> np.ndarray:
        """float64 [N], m: quickly, numbers that the distances of points [N, 3] do not exceed."""
        return self.tree.query(points)[0]

    def at_most(self, points: np.ndarray) -> np.ndarray:
        """float64 [N], m: less quickly, closer ones: distances of points [N, 3] to the nearest of a few triangles."""
        return self._nearest_of_few(points)[0][0]

    def farthest(self, points: np.ndarray, at_most: np.ndarray | None = None, best: float = 0.0) -> float:
        """m: the largest distance of points [N, 3], or ``best`` where that is larger.

        Args:
            at_most: [N], m: numbers that the distances do not exceed; None: :meth:`bounds`.
        """
        return self._largest(points, self.distances, at_most, best)

    def farthest_outside(self, points: np.ndarray) -> float:
        """m: the largest distance of a point outside; NaN where none is outside."""
        best = self._largest(np.asarray(points, np.float64), self.signed)
        return best if best > 0 else float("nan")

    def _largest(self, points: np.ndarray, measure, at_most: np.ndarray | None = None, best: float = 0.0) -> float:
        """The largest of ``measure(points)``, ``best`` at least: in the order of a bound, until no other can be larger."""
        bounds = self.bounds(points) if at_most is None else at_most
        for some in np.array_split(np.argsort(-bounds, kind="stable"), max(1, len(points) // 64)):
            if not len(some) or best >= bounds[some[0]]:
                break
            best = max(best, float(measure(points[some]).max()))
        return best

    def _nearest(self, points: np.ndarray):
        """Distance [N], offset from the nearest place [N, 3], its triangle [N], and the place's barycentric weights [N, 3]."""
        found, far = self._nearest_of_few(points)
        # a triangle whose centre is farther than these may still be nearer at a corner
        unsure = np.flatnonzero(far < found[0] + self.radius)
        for some in np.array_split(unsure, len(unsure) // CHUNK + 1):
            self._among(points, some, found)
        return found

    def _nearest_of_few(self, points: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """What :meth:`_nearest` gives, of the triangles with the nearest centres; the distances of the next centres [N]."""
        count = min(NEIGHBOURS, len(self.faces))
        far, face = self.tree.query(points, k=count)
        far, face = far.reshape(-1, count), face.reshape(-1, count)
        distance, offset, weights = self._to(np.repeat(points, count, axis=0), face.ravel())
        best = distance.reshape(-1, count).argmin(1)
        at = np.arange(len(points)) * count + best
        rest = far[:, -1] if count < len(self.faces) else np.full(len(points), np.inf)
        return (distance[at], offset[at], face.ravel()[at], weights[at]), rest

    def _among(self, points: np.ndarray, some: np.ndarray, found: tuple[np.ndarray, ...]) -> None:
        """Looks at every triangle that may be nearer to some points than what was found, and puts the nearest in its place."""
        near = self.tree.query_ball_point(points[some], found[0][some] + self.radius + 1e-12)
        counts = np.array([len(each) for each in near], np.int64)
        if not counts.sum():
            return
        face, owner = np.concatenate(near).astype(np.int64), np.repeat(some, counts)
        away = np.linalg.norm(points[owner] - self.centres[face], axis=1)
        may = away - self.radii[face] <= found[0][owner] + 1e-12
        face, owner = face[may], owner[may]
        distance, offset, weights = self._to(points[owner], face)
        order = np.lexsort((distance, owner))
        first = order[np.flatnonzero(np.diff(owner[order], prepend=-1))]
        better = first[distance[first] < found[0][owner[first]]]
        for array, value in zip(found, (distance, offset, face, weights)):
            array[owner[better]] = value[better]

    def _to(self, points: np.ndarray, face: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance [N], offset [N, 3] and weights [N, 3] of the nearest place of one triangle for each point."""
        corners = self.corners[face]
        weights = _closest(points, corners)
        offset = points - _places(weights, corners)
        return np.linalg.norm(offset, axis=1), offset, weights

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
