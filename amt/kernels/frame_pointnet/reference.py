"""The definition of ``frame_pointnet`` in plain PyTorch; every other implementation is held to it."""

from __future__ import annotations

import torch
from torch import Tensor

UNIT = 0.1  # m: the scale of the local coordinates that the MLP reads


def frame_pointnet(
    points: Tensor,  # [B, N, 3], m
    origins: Tensor,  # [B, F, 3], m
    rotations: Tensor,  # [B, F, 3, 3]
    w1: Tensor,  # [D1, 3]
    b1: Tensor,  # [F, D1]
    w2: Tensor,  # [D2, D1]
    b2: Tensor,  # [D2]
    mask: Tensor | None = None,  # bool [B, N], True where the point counts
) -> Tensor:  # [B, F, D2]
    dtype = points.dtype
    w1, b1, w2, b2 = (weight.to(dtype) for weight in (w1, b1, w2, b2))
    local = (points[:, None] - origins[:, :, None]) @ rotations / UNIT  # each row is R^T (p - o)
    hidden = torch.relu(local @ w1.T + b1[:, None])
    features = hidden @ w2.T + b2
    if points.shape[1] == 0:
        return features.new_zeros(*origins.shape[:2], w2.shape[0]) + 0 * b2
    if mask is None:
        return features.max(dim=2).values  # one winner takes the gradient; amax would share it among equal points
    features = features.masked_fill(~mask[:, None, :, None], -torch.inf).max(dim=2).values
    return torch.where(mask.any(dim=1)[:, None, None], features, 0.0)
