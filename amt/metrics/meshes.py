"""Scores of two surfaces as sets of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from amt.metrics.joints import MM_PER_M

F_THRESHOLDS_MM = (5.0, 15.0)  # FreiHAND's


def f_score(predicted: Tensor, true: Tensor, thresholds_mm: Sequence[float] = F_THRESHOLDS_MM) -> Tensor:
    """Harmonic mean of two shares, [B, T], 0-1: of true points nearer than a threshold to a predicted one, and the reverse.

    FreiHAND's F@5 and F@15, strictly nearer. 0 where both shares are 0, and where a point is not finite.

    Args:
        predicted: [B, V, 3], m; true: [B, W, 3], m.
        thresholds_mm: T of them, mm.
    """
    scores = np.zeros((len(predicted), len(thresholds_mm)))
    limits = np.asarray(thresholds_mm, np.float64) / MM_PER_M
    for row, a, b in zip(scores, predicted.double().numpy(), true.double().numpy()):
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            continue
        precision, recall = (
            (cKDTree(other).query(one)[0][:, None] < limits).mean(0) for one, other in ((a, b), (b, a))
        )
        total = precision + recall
        row[:] = 2 * precision * recall / np.where(total > 0, total, 1)
    return torch.from_numpy(scores)
