"""Signed distance to an object, on a grid: what tells a finger that it touches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from amt.data.synthetic.objects import Shape
from amt.data.synthetic.touch import nearest_places

CELL = 0.0025  # m, unless the grid would get too large
MOST_CELLS = 2_000_000
MARGIN = 0.03  # m of air around the object that the grid covers
SAMPLES = 40_000  # of the surface
NEAR = 0.008  # m
SURE = 0.0015  # m: farther away the cells' sign is right


@dataclass(frozen=True)
class SignedDistance:
    """Values on a regular grid; negative inside. Beyond the grid the distance to its border is added."""

    values: torch.Tensor  # float32 [1, 1, Z, Y, X], m
    origin: torch.Tensor  # float32 [3], m: centre of cell (0, 0, 0)
    cell: float  # m
    surface: object  # scipy's k-d tree of points of the surface
    normals: np.ndarray  # float64 [SAMPLES, 3], at these points
    corners: np.ndarray  # float64 [SAMPLES, 3, 3], m: of the triangles that they lie on

    @classmethod
    def of(cls, shape: Shape) -> SignedDistance:
        from scipy.ndimage import distance_transform_edt, label
        from scipy.spatial import cKDTree

        half = shape.extent / 2 + MARGIN
        cell = max(CELL, float((np.prod(2 * half) / MOST_CELLS) ** (1 / 3)))
        counts = np.ceil(2 * half / cell).astype(int) + 1
        axes = [np.arange(n) * cell - (n - 1) * cell / 2 for n in counts]
        origin = np.array([a[0] for a in axes])
        surface, normals, corners = shape.surface_samples(SAMPLES)

        # Far from the surface the distance between cells will do; what no air joins to the grid's border is inside.
        hit = np.ones(counts, bool)
        hit[tuple(np.round((surface - origin) / cell).astype(int).T)] = False
        coarse = (distance_transform_edt(hit) * cell).ravel()
        near = coarse < 2.5 * cell
        air, _ = label(~near.reshape(counts))
        distance = np.where(air.ravel() == air[0, 0, 0], coarse, -coarse)

        # Near it, the signed distance to the nearest sample, or closer still to that sample's plane.
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)[near]
        tree = cKDTree(surface, balanced_tree=False)
        length, nearest = tree.query(cells)
        plane = np.einsum("ij,ij->i", cells - surface[nearest], normals[nearest])
        spacing = np.sqrt(np.prod(np.sort(shape.extent)[1:]) * 6 / len(surface))
        distance[near] = np.where(length < 2 * spacing, plane, np.copysign(length, plane))
        values = torch.from_numpy(distance.reshape(counts).astype(np.float32).T.copy())
        return cls(values[None, None], torch.from_numpy(origin.astype(np.float32)), cell, tree, normals, corners)

    def exact(self, points: np.ndarray) -> np.ndarray:
        """float32 [...], m: as :meth:`at`; nearer than :data:`NEAR`, the distance to the triangles of the nearest samples."""
        found = self(points)
        near = np.abs(found) < NEAR
        if near.any():
            place = np.asarray(points[near], np.float64)
            _, which = self.surface.query(place, 4)
            offset = place[:, None] - nearest_places(place[:, None], *np.moveaxis(self.corners[which], 2, 0))
            square = np.einsum("nkc,nkc->nk", offset, offset)
            rows, best = np.arange(len(place)), square.argmin(1)
            side = np.einsum("nc,nc->n", offset[rows, best], self.normals[which[rows, best]])
            side = np.where(np.abs(found[near]) > SURE, found[near], side)
            found[near] = np.copysign(np.sqrt(square[rows, best]), side)
        return found

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """float32 [...], m: signed distance at float32 points [..., 3] of the object's frame, between cells trilinear."""
        return self._at(points, True)

    def near(self, points: torch.Tensor) -> torch.Tensor:
        """:meth:`at` for what is near the object: beyond the grid the distance at its border, MARGIN or more."""
        return self._at(points, False)

    def _at(self, points: torch.Tensor, beyond: bool) -> torch.Tensor:
        half = (torch.tensor(self.values.shape[:1:-1], dtype=torch.float32) - 1) * (self.cell / 2)
        place = torch.addcmul(-(self.origin / half + 1), points.reshape(-1, 3), 1 / half)  # -1 to 1 over the grid
        found = torch.nn.functional.grid_sample(
            self.values, place[None, :, None, None], padding_mode="border", align_corners=True
        ).view(-1)
        if beyond:
            over = (place.abs_() - 1).clamp_(min=0)
            found = found + (over * half).norm(dim=-1)
        return found.view(points.shape[:-1])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """:meth:`at` for arrays of any float type."""
        return self.at(torch.from_numpy(np.asarray(points, np.float32))).numpy()

    def normals_at(self, points: torch.Tensor) -> torch.Tensor:
        """float32 [..., 3]: unit outward direction of growing distance at points [..., 3]."""
        step = self.cell / 2 * torch.eye(3)
        around = self.near(points[..., None, None, :] + torch.stack([step, -step]))
        return torch.nn.functional.normalize(around[..., 0, :] - around[..., 1, :], dim=-1)
