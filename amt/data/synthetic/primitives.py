"""Watertight primitives from which the built-in objects are put together. Metres; every part has its own vertices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """One watertight piece, wound so that its faces look outward."""

    vertices: np.ndarray  # float64 [V, 3], m
    faces: np.ndarray  # int64 [F, 3]

    def moved(self, offset) -> Part:
        return Part(self.vertices + np.asarray(offset, float), self.faces)

    def rotated(self, axis: str, degrees: float) -> Part:
        """This part rotated about a coordinate axis through the origin."""
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        rotation = np.eye(3)
        rotation[i, i] = rotation[j, j] = c
        rotation[i, j], rotation[j, i] = -s, s
        return Part(self.vertices @ rotation.T, self.faces)

    def scaled(self, factors) -> Part:
        return Part(self.vertices * np.asarray(factors, float), self.faces)


def box(x: float, y: float, z: float, chamfer: float = 0.0) -> Part:
    """A box about the origin with the given edge lengths; ``chamfer`` cuts every edge at 45 degrees."""
    half = np.array([x, y, z]) / 2
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], float)
    # Three points a corner, each pulled back along two axes; their convex hull is the chamfered box.
    points = [signs * (half - chamfer * (1 - np.eye(3)[k])) for k in range(3)] if chamfer else [signs * half]
    return hull(np.concatenate(points))


def hull(points) -> Part:
    """The convex hull of points [N, 3], faces outward."""
    from scipy.spatial import ConvexHull

    points = np.asarray(points, float)
    convex = ConvexHull(points)
    faces = convex.simplices.astype(np.int64)
    a, b, c = (points[faces[:, k]] for k in range(3))
    inward = np.einsum("ij,ij->i", np.cross(b - a, c - a), convex.equations[:, :3]) < 0
    faces[inward] = faces[inward][:, ::-1]
    used, compact = np.unique(faces, return_inverse=True)
    return Part(points[used], compact.reshape(faces.shape))


def lathe(profile, segments: int = 40) -> Part:
    """A profile of (radius, z) pairs rotated about z. It must start and end on the axis (radius 0), going upward outside."""
    profile = np.asarray(profile, float)
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    rings = profile[1:-1]
    vertices = [np.concatenate([r * circle, np.full((segments, 1), z)], 1) for r, z in rings]
    vertices = np.concatenate([*vertices, [[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]]])
    return Part(vertices, _ring_faces(len(rings), segments))


def tube(path, radii, segments: int = 14, flatten: float = 1.0) -> Part:
    """A capped tube along points [N, 3] with a radius at each; ``flatten`` squeezes the section's second axis.

    The section's axes are carried along the path by the shortest rotation, so that it does not twist.
    """
    path, radii = np.asarray(path, float), np.broadcast_to(np.asarray(radii, float), len(path))
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    seed = np.eye(3)[np.abs(tangents[0]).argmin()]
    side = np.cross(tangents[0], seed)
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = []
    for point, tangent, radius in zip(path, tangents, radii, strict=True):
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side)
        other = np.cross(tangent, side) * flatten
        rings.append(point + radius * (np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * other))
    vertices = np.concatenate([*rings, path[:1], path[-1:]])
    return Part(vertices, _ring_faces(len(rings), segments))


def sweep(path: np.ndarray, widths: np.ndarray, first: np.ndarray, second: np.ndarray, segments: int = 20) -> Part:
    """Ellipses about points [N, 3], half as wide as ``widths`` [N, 2] say along two fixed axes, joined and capped."""
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    sides = widths[:, 0, None, None] * np.cos(angles)[:, None] * first
    rings = path[:, None] + sides + widths[:, 1, None, None] * np.sin(angles)[:, None] * second
    return Part(np.concatenate([rings.reshape(-1, 3), path[:1], path[-1:]]), _ring_faces(len(path), segments))


def arc(radius: float, start: float, end: float, count: int = 16, plane: str = "xz") -> np.ndarray:
    """Points [count, 3] on a circle's arc about the origin, from ``start`` to ``end`` degrees, in a coordinate plane."""
    angles = np.radians(np.linspace(start, end, count))
    points = np.zeros((count, 3))
    points[:, "xyz".index(plane[0])] = radius * np.cos(angles)
    points[:, "xyz".index(plane[1])] = radius * np.sin(angles)
    return points


def _ring_faces(rings: int, segments: int) -> np.ndarray:
    """Faces between consecutive rings of vertices, and two fans to the vertices that follow them (first end, last end)."""
    i = np.arange(segments)
    j = (i + 1) % segments
    faces = []
    for ring in range(rings - 1):
        low, high = ring * segments, (ring + 1) * segments
        faces += [np.stack([low + i, low + j, high + j], 1), np.stack([low + i, high + j, high + i], 1)]
    last, first_end = (rings - 1) * segments, rings * segments
    faces += [np.stack([j, i, np.full_like(i, first_end)], 1)]
    faces += [np.stack([last + i, last + j, np.full_like(i, first_end + 1)], 1)]
    return np.concatenate(faces)
