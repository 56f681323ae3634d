"""The field's figures. Tensors in metres come in, numbers in millimetres (``_mm``) or shares come out.

All functions compute in float64 and take B samples; means over samples are the caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor

MM_PER_M = 1000.0
CHUNK = 64  # samples whose point distances are held at once


def absolute_error_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """Distance of each joint in camera space: [B, J] of [B, J, 3] (m)."""
    return (predicted.double() - true.double()).norm(dim=-1) * MM_PER_M


def wrist_aligned_error_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """The same after joint 0 of each was subtracted: [B, J]."""
    return absolute_error_mm(predicted - predicted[:, :1], true - true[:, :1])


def procrustes_error_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """The same after the best similarity transform, reflections allowed as in DexYCB's own evaluation: [B, J]."""
    predicted, true = predicted.double(), true.double()
    centre = true.mean(dim=1, keepdim=True)
    a, b = predicted - predicted.mean(dim=1, keepdim=True), true - centre
    size_a, size_b = (x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None] for x in (a, b))
    a, b = a / size_a, b / size_b
    u, s, vh = torch.linalg.svd(a.mT @ b)
    aligned = a @ u @ vh * s.sum(dim=-1)[:, None, None]
    return (aligned - b).norm(dim=-1) * size_b[..., 0] * MM_PER_M


def adds_mm(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Both figures that are called ADD-S, [B] each, of posed object points [B, P, 3] (m).

    The first is the mean over predicted points of the distance to the nearest true one (papers on hands with objects); the
    second is the mean over true points of the distance to the nearest predicted one (BOP's ``adi``).
    """
    first, second = [], []
    for a, b in zip(predicted.double().split(CHUNK), true.double().split(CHUNK)):
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        first.append(distance.amin(dim=2).mean(dim=1))
        second.append(distance.amin(dim=1).mean(dim=1))
    return torch.cat(first) * MM_PER_M, torch.cat(second) * MM_PER_M


def f1(predicted: Tensor, true: Tensor) -> float:
    """F1 of booleans of any one shape, counted over all of them; 0 where nothing was rightly found."""
    hits = int((predicted & true).sum())
    return 2 * hits / max(1, int(predicted.sum()) + int(true.sum()))


def spread_ratio(predicted: Tensor, true: Tensor) -> Tensor:
    """How much wrist-relative predictions vary over the samples, over how much the labels do: one ratio a joint, [J - 1].

    Near 0 for a model that always says the mean, 1 where predictions vary as the labels do. The wrist itself is left out.
    """

    def spread(joints: Tensor) -> Tensor:
        relative = (joints - joints[:, :1])[:, 1:].double()
        return (relative - relative.mean(dim=0)).square().sum(dim=-1).mean(dim=0).sqrt()

    return spread(predicted) / spread(true).clamp(min=1e-9)
