"""Signed distance to an object, on a grid: what tells a finger that it touches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from amt.data.synthetic.objects import Shape
from amt.data.synthetic.touch import nearest_places

CELL = 0.0025  # m, unless the grid would get too large
MOST_CELLS = 2_000_000
MARGIN = 0.03  # m of air around the object that the grid covers
SAMPLES = 40_000  # of the surface
NEAR = 0.008  # m
SURE, SURE_OF_PARTS = (
    0.0015,
    0.0006,
)  # m: farther away the cells' sign counts; a part's triangles go on inside of other parts
NEAREST, TIED = 8, 2e-5  # samples whose triangles are looked at, and m between triangles that are equally near
SPACING, EDGE_SPACING = 0.004, 0.002  # m
THIN, THIN_SHARE = 0.006, 0.25  # m, and of the surface that such walls have
SHARP = 0.5  # rad: an edge whose faces turn by more cuts deep between the vertices of a hand


@dataclass(frozen=True)
class SignedDistance:
    """Values on a regular grid; negative inside. Beyond the grid the distance to its border is added."""

    values: torch.Tensor  # float32 [1, 1, Z, Y, X], m
    origin: torch.Tensor  # float32 [3], m: centre of cell (0, 0, 0)
    cell: float  # m
    surface: (
        object  # scipy's k-d tree of N points of the surface; those of sharp edges come twice, once for each triangle
    )
    normals: np.ndarray  # float64 [N, 3], at these points
    corners: np.ndarray  # float64 [N, 3, 3], m: of the triangles that they lie on
    outline: np.ndarray  # float64 [M, 3], m: places of the surface, SPACING apart, along edges EDGE_SPACING
    sure: float  # m: SURE or SURE_OF_PARTS
    thin: bool  # whether it has walls of THIN or less

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
        where = np.unravel_index(np.flatnonzero(near), counts)
        cells = np.stack([along[number] for along, number in zip(axes, where, strict=True)], -1)
        tree = cKDTree(surface, balanced_tree=False)
        length, nearest = tree.query(cells)
        plane = np.einsum("ij,ij->i", cells - surface[nearest], normals[nearest])
        spacing = np.sqrt(np.prod(np.sort(shape.extent)[1:]) * 6 / len(surface))
        distance[near] = np.where(length < 2 * spacing, plane, np.copysign(length, plane))
        values = torch.from_numpy(distance.reshape(counts).astype(np.float32).T.copy())
        start = torch.from_numpy(origin.astype(np.float32))
        edges = _sharp_edges(shape)
        boxes = np.floor(surface / SPACING).astype(np.int64)
        boxes -= boxes.min(0)
        _, chosen = np.unique(np.ravel_multi_index(boxes.T, boxes.max(0) + 1), return_index=True)
        solid = cls(
            values[None, None],
            start,
            cell,
            cKDTree(np.concatenate((surface, edges[0])), balanced_tree=False),
            np.concatenate((normals, edges[1])),
            np.concatenate((corners, edges[2])),
            np.concatenate((surface[chosen], edges[0][: len(edges[0]) // 2])),
            SURE if len(shape.parts) == 1 else SURE_OF_PARTS,
            False,
        )
        some = slice(0, SAMPLES, 10)
        return replace(solid, thin=bool((solid(surface[some] - THIN * normals[some]) > 0).mean() > THIN_SHARE))

    def exact(self, points: np.ndarray) -> np.ndarray:
        """float32 [...], m: as :meth:`at`; nearer than :data:`NEAR`, the distance to the triangles of the nearest samples."""
        found = self(points)
        near = np.abs(found) < NEAR
        if near.any():
            place = np.asarray(points[near], np.float64)
            _, which = self.surface.query(place, NEAREST)
            offset = place[:, None] - nearest_places(place[:, None], *np.moveaxis(self.corners[which], 2, 0))
            square = np.einsum("nkc,nkc->nk", offset, offset)
            rows, best = np.arange(len(place)), square.argmin(1)
            # At an edge two triangles are equally near, and the one that the point lies more above or below tells the side.
            sides = np.einsum("nkc,nkc->nk", offset, self.normals[which])
            tied = np.sqrt(square) < np.sqrt(square[rows, best])[:, None] + TIED
            side = sides[rows, np.where(tied, np.abs(sides), -1).argmax(1)]
            side = np.where(np.abs(found[near]) > self.sure, found[near], side)
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


def _sharp_edges(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places along convex sharp edges, float64 [2 E, 3] (m), with normals and corners of the triangle on the one side, then of
    that on the other."""
    import trimesh

    places, sides = [], ([], [])
    for number, part in enumerate(shape.parts):
        mesh = trimesh.Trimesh(part.vertices, part.faces, process=False)
        sharp = (mesh.face_adjacency_angles > SHARP) & mesh.face_adjacency_convex
        a, b = part.vertices[mesh.face_adjacency_edges[sharp]].transpose(1, 0, 2)
        pieces = np.ceil(np.linalg.norm(b - a, axis=1) / EDGE_SPACING).astype(int)
        which = np.repeat(np.arange(len(a)), pieces)
        share = (np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[which]
        edge = a[which] + share[:, None] * (b - a)[which]
        outer = ~shape.inside(edge, except_part=number)
        places.append(edge[outer])
        for side, faces in zip(sides, mesh.face_adjacency[sharp].T, strict=True):
            side.append(part.vertices[part.faces[faces[which[outer]]]])
    corners = np.concatenate([*sides[0], *sides[1]])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.concatenate(places * 2), normals, corners
