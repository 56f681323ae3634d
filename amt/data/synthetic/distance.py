"""Signed distance to an object, on a grid: what tells a finger that it touches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amt.data.synthetic.objects import Shape

CELL = 0.004  # m; trilinear values err by well under 1 mm on these shapes
MARGIN = 0.03  # m of air around the object that the grid covers


@dataclass(frozen=True)
class SignedDistance:
    """Values on a regular grid; negative inside. Beyond the grid the distance to its border is added."""

    values: np.ndarray  # float32 [X, Y, Z], m
    origin: np.ndarray  # float64 [3], m: centre of cell (0, 0, 0)

    @classmethod
    def of(cls, shape: Shape) -> SignedDistance:
        from scipy.ndimage import distance_transform_edt, label
        from scipy.spatial import cKDTree

        half = shape.extent / 2 + MARGIN
        counts = np.ceil(2 * half / CELL).astype(int) + 1
        axes = [np.arange(n) * CELL - (n - 1) * CELL / 2 for n in counts]
        origin = np.array([a[0] for a in axes])
        surface, normals = shape.surface_points(24_000)

        # Far from the surface the distance between cells will do; what no air joins to the grid's border is inside.
        hit = np.ones(counts, bool)
        hit[tuple(np.round((surface - origin) / CELL).astype(int).T)] = False
        coarse = distance_transform_edt(hit).ravel() * CELL
        near = coarse < 2.5 * CELL
        air, _ = label(~near.reshape(counts))
        distance = np.where(air.ravel() == air[0, 0, 0], coarse, -coarse)

        # Near it, the signed distance to the nearest sample, or closer still to that sample's plane.
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)[near]
        length, nearest = cKDTree(surface, balanced_tree=False).query(cells)
        plane = np.einsum("ij,ij->i", cells - surface[nearest], normals[nearest])
        spacing = np.sqrt(np.prod(np.sort(shape.extent)[1:]) * 6 / len(surface))
        distance[near] = np.where(length < 2 * spacing, plane, np.copysign(length, plane))
        return cls(distance.reshape(counts).astype(np.float32), origin)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """float32 [...], m: signed distance at points [..., 3] of the object's frame."""
        cell = (np.asarray(points) - self.origin) / CELL
        limit = np.array(self.values.shape) - 1.001
        clipped = np.clip(cell, 0, limit)
        beyond = np.linalg.norm(cell - clipped, axis=-1) * CELL
        low = clipped.astype(np.int64)
        x, y, z = np.moveaxis((clipped - low).astype(np.float32), -1, 0)
        _, ny, nz = self.values.shape
        flat = self.values.ravel()
        at = (low[..., 0] * ny + low[..., 1]) * nz + low[..., 2]
        c00 = flat[at] * (1 - z) + flat[at + 1] * z
        c01 = flat[at + nz] * (1 - z) + flat[at + nz + 1] * z
        at = at + ny * nz
        c10 = flat[at] * (1 - z) + flat[at + 1] * z
        c11 = flat[at + nz] * (1 - z) + flat[at + nz + 1] * z
        return (c00 * (1 - y) + c01 * y) * (1 - x) + (c10 * (1 - y) + c11 * y) * x + beyond.astype(np.float32)

    def normal(self, points: np.ndarray) -> np.ndarray:
        """float64 [..., 3]: unit outward direction of growing distance at points [..., 3]."""
        step = CELL / 2 * np.eye(3)
        gradient = np.stack([self(points + s) - self(points - s) for s in step], -1).astype(float)
        return gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-9)
