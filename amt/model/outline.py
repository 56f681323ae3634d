"""The outline of the object in the crop, by how far it reaches in eight directions, whether it is hidden or outside the crop.

A corner of the object's box could be any of eight places, and the object's origin lies where its maker put it. How far the
object reaches to the right is one number, whatever its symmetries. A network can learn it as it learns a joint. It tells for
every rotation where the object must be, and how far away: what a comparison of looks needs first (docs/log.md, 29 November).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from amt.hand.mirror import choose
from amt.hand.tensors import TensorFields, exported
from amt.kernels.constant import constant, places
from amt.model.camera import CropCamera
from amt.model.config import ModelConfig
from amt.model.keypoints import cell_positions
from amt.model.precision import coordinates

NEIGHBOURS = tuple(step for step in product((-1.0, 0.0, 1.0), repeat=3) if any(step))  # of a cell in a grid
DIRECTIONS = 8  # 45 degrees apart, from x towards y; the second four are opposite to the first
MIRRORED = tuple((DIRECTIONS // 2 - i) % DIRECTIONS for i in range(DIRECTIONS))
FARTHEST = 2.0  # half crops: what reaches farther counts as if it reached so far
FIRST_LOG_SCALE = math.log(0.2)
LEAST_LOG_SCALE, GREATEST_LOG_SCALE = math.log(0.01), math.log(2.0)
CLOSER, FARTHER = 0.5, 2.0  # a depth stays within these shares of the one that is expected
# Relative deviation of the depth that is expected. Keypoints tell it to 6 % (median), an outline alone worse (docs/log.md).
DEPTH_DOUBT = 0.06


@exported
@dataclass(frozen=True)
class Outline(TensorFields):
    """What is seen of the outline. Float32."""

    reach: Tensor  # [B, 8], half crops: the largest x cos a + y sin a of the object's points at positions (x, y) in the crop
    scale: Tensor  # [B, 8], half crops: of the Laplace distribution of its error

    def mirrored(self, which: Tensor) -> Outline:
        """The outline in the mirrored crop where ``which`` [B] (bool) is True."""
        return self.map(lambda values: choose(which, values[:, places(MIRRORED, values)], values))

    def unlikeliness(self, reach: Tensor) -> Tensor:
        """Minus the log density of reaches [..., B, K, 8] (half crops) under this, up to a constant: [..., B, K]."""
        limited = reach.clamp(-FARTHEST, FARTHEST)
        return ((limited - self.reach[:, None]).abs() / self.scale[:, None]).sum(dim=-1)


class OutlineHead(nn.Module):
    """One score map a direction; its softmax averages the cells' positions and features, as in the keypoints' head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels, size = config.map_channels, config.map_size
        self.score = nn.Linear(channels, DIRECTIONS)
        self.beside_and_scale = nn.Parameter(torch.zeros(DIRECTIONS, 2, channels))
        self.register_buffer("along", cell_positions(size) @ directions().mT, persistent=False)  # [cells, 8]

    def forward(self, fine: Tensor) -> Outline:
        """The outline, from the fine map [B, H, W, C]."""
        cells = fine.flatten(1, 2)
        weights = torch.softmax(self.score(cells).float(), dim=1)
        features = weights.mT.to(cells.dtype) @ cells
        beside, log_scale = (self.beside_and_scale.to(features.dtype) @ features[..., None])[..., 0].float().unbind(-1)
        log_scale = (FIRST_LOG_SCALE + log_scale).clamp(LEAST_LOG_SCALE, GREATEST_LOG_SCALE)
        return Outline((weights * self.along).sum(dim=1) + beside, log_scale.exp())


def directions() -> Tensor:
    """Unit vectors [8, 2]."""
    half = torch.arange(DIRECTIONS // 2) * (2 * math.pi / DIRECTIONS)
    first = torch.stack((half.cos(), half.sin()), dim=-1)
    return torch.cat((first, -first))


_WAYS = tuple(map(tuple, directions().tolist()))


def corners(points: Tensor) -> Tensor:
    """Of an object's points [B, P, 3] the farthest in each of 26 directions, [B, 26, 3]: enough to know how far it reaches.

    The directions are those to a cell's neighbours in a grid, so the corners of a box are among them.
    """
    axes = torch.nn.functional.normalize(constant(NEIGHBOURS, points), dim=1)
    farthest = (points @ axes.mT).argmax(dim=1)
    return points.gather(1, farthest[..., None].expand(-1, -1, 3))


@coordinates
def reach_of(points: Tensor, rotation: Tensor, translation: Tensor, camera: CropCamera) -> Tensor:
    """How far an object reaches in the crop under K poses: [B, K, 8], half crops.

    Args:
        points: [B, P, 3], m, in the object's frame, such as its :func:`corners`; one nearer than 1 mm is projected as if it
            lay at 1 mm.
        rotation, translation: [B, K, 3, 3] and [B, K, 3] (m), object to camera.
    """
    at = _turned(points, rotation) + translation.permute(0, 2, 1)[..., None]  # [B, 3, K, P]
    return _farthest(at[:, :2] / at[:, 2:].clamp(min=1e-3), camera) + _offset(camera)[:, None]


@coordinates
def placed(points: Tensor, rotation: Tensor, near: Tensor, outline: Outline, camera: CropCamera) -> Tensor:
    """Where an object turned so must be for its outline: translations [B, K, 3] (m) of rotations [B, K, 3, 3].

    Least squares with the outline's scales and with :data:`DEPTH_DOUBT` on the depth. Reaches are linear in 1/z, x/z and y/z as
    long as the object is small beside its distance; a second step puts that right.

    Args:
        points: [B, P, 3], m, in the object's frame.
        near: [B, 3], m: of which the depth is what the object's is expected to be, and is off by a factor of 2 at most.
    """
    middle = points.mean(dim=1, keepdim=True)
    points, moved = points - middle, (rotation @ middle[:, None].mT)[..., 0]
    wide = _farthest(_turned(points, rotation)[:, :2], camera)  # at a distance of 1 m, weak perspective: [B, K, 8]
    rows = torch.cat(
        (wide[..., None], _rows(camera)[:, None].expand(-1, wide.shape[1], -1, -1)), dim=-1
    )  # [B, K, 8, 3]
    weighted = rows / outline.scale[:, None, :, None].square()
    first = near[:, None, 2:].reciprocal()  # 1/z: [B, 1, 1]
    certainty = (DEPTH_DOUBT * first) ** -2
    solve = _inverse(weighted.mT @ rows + _alone(certainty)[..., None] * torch.eye(3, device=rows.device)[0])

    def step(seen: Tensor, inverse: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        missing = outline.reach.clamp(-FARTHEST, FARTHEST)[:, None] - seen
        wanted = (weighted * missing[..., None]).sum(dim=-2) + _alone(certainty * (first - inverse))
        solved = (solve @ wanted[..., None])[..., 0]
        inverse = torch.minimum(torch.maximum(inverse + solved[..., :1], first / FARTHER), first / CLOSER)
        return inverse, rays + solved[..., 1:]

    inverse, rays = step(wide * first + _offset(camera)[:, None], first, torch.zeros_like(wide[..., :2]))
    inverse, rays = step(reach_of(points, rotation, _point(inverse, rays), camera), inverse, rays)
    return _point(inverse, rays) - moved


def _point(inverse: Tensor, rays: Tensor) -> Tensor:
    """[..., 3], m, of 1/z [..., 1] and x/z, y/z [..., 2]."""
    return torch.cat((rays, torch.ones_like(inverse)), dim=-1) / inverse


def _alone(value: Tensor) -> Tensor:
    """A number [..., 1] with two zeros behind it: [..., 3]."""
    return torch.nn.functional.pad(value, (0, 2))


def _inverse(matrices: Tensor) -> Tensor:
    """Of symmetric positive 3 x 3 matrices [..., 3, 3], by their cofactors: exporters know no solver."""
    a, b, c = matrices.unbind(-1)
    adjugate = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)), dim=-2)
    return adjugate / (a * adjugate[..., 0, :]).sum(dim=-1)[..., None, None]


def _turned(points: Tensor, rotation: Tensor) -> Tensor:
    """Turned points [B, 3, K, P]: axes first, so that the farthest of P numbers in a row is found."""
    batch, count = rotation.shape[:2]
    return (rotation.transpose(1, 2).reshape(batch, 3 * count, 3) @ points.mT).unflatten(1, (3, count))


def _rows(camera: CropCamera) -> Tensor:
    """Half crops along the directions for a unit of x/z and of y/z: [B, 8, 2]."""
    axes = constant(_WAYS, camera.intrinsics)
    return axes @ camera.intrinsics[:, :2, :2] / (camera.size / 2)


def _offset(camera: CropCamera) -> Tensor:
    """The principal point along the directions: [B, 8], half crops."""
    centre = (camera.intrinsics[:, :2, 2] - (camera.size - 1) / 2) / (camera.size / 2)
    return centre @ constant(_WAYS, centre).mT


def _farthest(rays: Tensor, camera: CropCamera) -> Tensor:
    """Reaches [B, K, 8] (half crops, from the principal point) of rays [B, 2, K, P]."""
    half = _rows(camera)[:, : DIRECTIONS // 2]
    along = (half @ rays.flatten(2)).unflatten(2, rays.shape[2:])  # [B, 4, K, P]
    low, high = torch.aminmax(along, dim=3)
    return torch.cat((high, -low), dim=1).mT
