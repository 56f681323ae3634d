"""The definition of ``pose_scores`` in plain PyTorch; every other implementation is held to it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.kernels.constant import constant

NEAREST_DEPTH = 1e-3  # m: a point nearer than this, or behind the camera, is projected as if it lay here
SMALLEST_SQUARE = 1e-12  # m^2: of the distance from the camera, which divides
LEAST_FACING, STEEPNESS = 0.1, 12.0  # the cosine to the camera at which a point counts half, and how fast that changes
RIM = 0.2  # cosine to the camera below which a point belongs to the rim
SURFACE_CHANNELS = 4


def pose_scores(
    colour: Tensor,  # [B, N, H, W]
    surface: Tensor,  # [B, 4, H, W]
    points: Tensor,  # [B, N, 3], m, in the object's frame
    normals: Tensor,  # [B, N, 3]
    rotation: Tensor,  # [B, K, 3, 3], object to camera
    translation: Tensor,  # [B, K, 3], m
    intrinsics: Tensor,  # [B, 3, 3], px
    image_size: tuple[int, int],  # height, width of the image that intrinsics and maps cover
) -> Tensor:  # [B, K]
    batch, number = points.shape[:2]
    count = rotation.shape[1]
    turned = (rotation.flatten(1, 2) @ torch.cat((points, normals), dim=1).mT).unflatten(1, (count, 3))  # [B, K, 3, 2N]
    seen, normal = turned.chunk(2, dim=3)
    seen = (seen + translation[..., None]).mT  # [B, K, N, 3]
    # norm(dim=-1) takes forty times as long over this layout
    away = seen.square().sum(-1).clamp(min=SMALLEST_SQUARE).sqrt()
    facing = -(seen * normal.mT).sum(-1) / away
    weight = torch.sigmoid((facing - LEAST_FACING) * STEEPNESS)
    at = _positions(seen.flatten(1, 2), intrinsics, image_size)
    at = at.unflatten(1, (count, number)).transpose(1, 2)  # [B, N, K, 2]
    # grid_sample's backward writes outside its memory where a position is NaN
    lost, at = at.isnan().any(dim=-1), at.nan_to_num(nan=0.0)
    own = _sampled(colour.flatten(0, 1)[:, None], at.flatten(0, 1)[:, :, None]).view(batch, number, count)
    own = own.masked_fill(lost, math.nan)
    shown = _sampled(surface, at)  # [B, 4, N, K]
    score = own + (shown[:, :3] * normal.permute(0, 2, 3, 1)).sum(1)
    score = score.mT + shown[:, 3].mT * torch.exp(-((facing / RIM) ** 2))  # [B, K, N]
    return (score * weight).sum(-1) / weight.sum(-1).clamp(min=1)


def _positions(points: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Where points [B, M, 3] (m) are seen, [B, M, 2]: -1 and 1 are the image's edges."""
    rays = points[..., :2] / points[..., 2:].clamp(min=NEAREST_DEPTH)
    pixels = rays @ intrinsics[:, :2, :2].mT + intrinsics[:, None, :2, 2]
    half = constant((image_size[1] / 2, image_size[0] / 2), pixels)
    return (pixels + 0.5) / half - 1


def _sampled(maps: Tensor, at: Tensor) -> Tensor:
    return F.grid_sample(maps, at, padding_mode="border", align_corners=False)
