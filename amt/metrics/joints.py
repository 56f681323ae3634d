"""Errors of joints or vertices, and what is counted from them."""

from __future__ import annotations

import torch
from torch import Tensor

MM_PER_M = 1000.0
# DexYCB's and FreiHAND's evaluators count at these 100 thresholds.
AUC_THRESHOLDS_MM = torch.linspace(0, 50, 100, dtype=torch.float64)
SMALLEST = 1e-11  # m: added to the size of a set of points. FreiHAND's evaluator adds 1e-8 of its unit, DexYCB's calls it in mm


def absolute_error_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """Distance of each joint in camera space: [B, J] of [B, J, 3] (m)."""
    return (predicted.double() - true.double()).norm(dim=-1) * MM_PER_M


def wrist_aligned_error_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """The same after joint 0 of each was subtracted: [B, J]."""
    predicted, true = predicted.double(), true.double()
    return absolute_error_mm(predicted - predicted[:, :1], true - true[:, :1])


def procrustes_aligned(predicted: Tensor, true: Tensor, smallest: float = SMALLEST) -> Tensor:
    """The predicted points [B, J, 3] (m, float64) after the similarity transform that brings them nearest to the true ones.

    Reflections are allowed, as in the evaluators of FreiHAND and DexYCB: centre, Frobenius norm (plus ``smallest``, m),
    orthogonal Procrustes, scale.
    """
    predicted, true = predicted.double(), true.double()
    centre = true.mean(dim=1, keepdim=True)
    a, b = predicted - predicted.mean(dim=1, keepdim=True), true - centre
    size_a, size_b = (x.flatten(1).norm(dim=1)[:, None, None] + smallest for x in (a, b))
    a, b = a / size_a, b / size_b
    shared = a.mT @ b
    u, s, vh = torch.linalg.svd(torch.where(shared.isfinite(), shared, 0))  # NaN stays NaN, in its sample alone
    return a @ u @ vh * (s.sum(dim=-1)[:, None, None] * size_b) + centre


def procrustes_error_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """Distance of each joint after :func:`procrustes_aligned`: [B, J]."""
    return absolute_error_mm(procrustes_aligned(predicted, true), true)


def pck(error_mm: Tensor, thresholds_mm: Tensor = AUC_THRESHOLDS_MM) -> Tensor:
    """Share of samples whose error [N, J] is at most each threshold [T]: [T, J]."""
    error, limits = error_mm.double(), thresholds_mm.double()
    return torch.stack([(error <= limit).double().mean(dim=0) for limit in limits])


def auc(error_mm: Tensor, thresholds_mm: Tensor = AUC_THRESHOLDS_MM) -> float:
    """Area under the PCK curve over that of a perfect one, by trapezoids, a joint each, averaged over joints. 0-1.

    Args:
        error_mm: [N, J]; thresholds_mm: [T], rising.
    """
    limits = thresholds_mm.double()
    return float((torch.trapezoid(pck(error_mm, limits), limits, dim=0) / (limits[-1] - limits[0])).mean())


def with_missed(predicted: Tensor, found: Tensor, stand_in: Tensor) -> Tensor:
    """Predictions [B, J, 3] in which hands that were not ``found`` (bool [B]) are the stand-in's [B, J, 3].

    MPJPE-p is the error of these: a missed hand counts as the mean hand at its box.
    """
    return torch.where(found[:, None, None], predicted, stand_in)


def spread_ratio(predicted: Tensor, true: Tensor) -> Tensor:
    """How much wrist-relative predictions vary over the samples, over how much the labels do: one ratio a joint, [J - 1].

    Near 0 for a model that always says the mean, 1 where predictions vary as the labels do. The wrist itself is left out.
    """

    def spread(joints: Tensor) -> Tensor:
        joints = joints.double()
        relative = (joints - joints[:, :1])[:, 1:]
        return (relative - relative.mean(dim=0)).square().sum(dim=-1).mean(dim=0).sqrt()

    return spread(predicted) / spread(true).clamp(min=1e-9)
