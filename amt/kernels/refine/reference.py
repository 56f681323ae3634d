"""The definition of ``refine`` in plain PyTorch; every other implementation is held to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.kernels.constant import constant

NEAREST_DEPTH = 1e-3  # m: a joint at or behind this depth has no projection
RELATIVE_UNIT = 0.1  # m: the scale of the wrist-relative coordinates that the MLP reads


def refine(
    joints: Tensor,  # [B, J, 3], m
    intrinsics: Tensor,  # [B, 3, 3], px
    maps: Sequence[Tensor],  # L maps [B, H, W, C]
    w1: Tensor,  # [S, D, C + 3], C the sum over the maps
    b1: Tensor,  # [S, J, D]
    w2: Tensor,  # [S, 3, D]
    b2: Tensor,  # [S, 3]
    image_size: tuple[int, int],  # height, width of the image that intrinsics and maps cover
    step_size: float,
    detach: bool,
) -> Tensor:  # [B, S, J, 3]
    accumulate = joints.dtype
    steps = []
    for k in range(w1.shape[0]):
        if detach and k > 0:
            joints = joints.detach()
        pixels, visible = project(joints, intrinsics)
        samples = [sample(m, pixels, visible, image_size) for m in maps]
        relative = (joints - joints[:, :1]) / RELATIVE_UNIT
        # a wrist that is not finite must not reach the other joints of its hand
        relative = torch.where(torch.isfinite(relative), relative, 0.0)
        features = torch.cat([*samples, relative], dim=-1)
        hidden = F.gelu(features @ w1[k].to(accumulate).T + b1[k].to(accumulate))
        offset = hidden @ w2[k].to(accumulate).T + b2[k].to(accumulate)
        joints = joints + step_size / 2**k * offset
        steps.append(joints)
    return torch.stack(steps, dim=1)


def project(joints: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [B, J, 2] and whether the projection exists [B, J]. Pixels are 0 and gradient-free where it does not."""
    with torch.no_grad():
        visible = (joints[..., 2] > NEAREST_DEPTH) & torch.isfinite(_divide(joints, intrinsics)).all(dim=-1)
    # a safe joint first: `where` on the result alone would still send 0 * NaN backward through the branch not taken
    pixels = _divide(torch.where(visible[..., None], joints, constant((0.0, 0.0, 1.0), joints)), intrinsics)
    return torch.where(visible[..., None], pixels, 0.0), visible


def _divide(joints: Tensor, intrinsics: Tensor) -> Tensor:
    return torch.einsum("bij,bnj->bni", intrinsics[:, :2], joints) / joints[..., 2:]


def sample(feature_map: Tensor, pixels: Tensor, visible: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Bilinear samples [B, J, C] of a map [B, H, W, C]: align_corners=False, zeros outside and where not visible."""
    batch, height, width, channels = feature_map.shape
    size = constant((width / image_size[1], height / image_size[0]), pixels)
    position = (pixels + 0.5) * size - 0.5
    # what is far outside may not even be finite: no tap, no gradient
    near = visible & ((position >= -1) & (position < constant((width, height), position))).all(dim=-1)
    position = torch.where(near[..., None], position, 0.0)
    corner = torch.floor(position).detach()
    fraction = position - corner
    flat = feature_map.reshape(batch, height * width, channels)
    total = pixels.new_zeros(batch, pixels.shape[1], channels)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = corner[..., 0] + dx, corner[..., 1] + dy
            inside = near & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            # only what is inside has an index
            index = torch.where(inside, y * width + x, 0.0).long()
            tap = flat.gather(1, index[..., None].expand(-1, -1, channels)).to(pixels.dtype)
            weight = (fraction[..., 0] if dx else 1 - fraction[..., 0]) * (
                fraction[..., 1] if dy else 1 - fraction[..., 1]
            )
            total = total + torch.where(inside, weight, 0.0)[..., None] * torch.where(inside[..., None], tap, 0.0)
    return total
