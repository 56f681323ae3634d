"""Terms of the object: where it is from the wrist, how it is rotated, and which class it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.batch import Inputs, Targets
from amt.model.outputs import Prediction
from amt.train.losses.hand import Terms
from amt.train.losses.masks import mean_where
from amt.train.losses.units import LENGTH_UNIT

CHAMFER_POINTS = 128  # object points in the chamfer distance, which costs their square


def object_terms(p: Prediction, t: Targets, inputs: Inputs) -> Terms:
    """``object_translation``, ``object_points``, ``object_rotation`` and ``object_class``."""
    both = t.hand_valid & t.object_valid
    points = inputs.object_points[:, :: max(1, inputs.object_points.shape[1] // CHAMFER_POINTS)]
    wanted = points @ t.object_rotation.mT
    rotated = [points @ rotation.mT for rotation in (p.coarse.object_rotation, p.decoded.object_rotation)]

    def translation() -> Tensor:
        wanted_offset = t.object_translation - t.joints[:, 0]
        final = p.object_translation - p.joints[:, 0] - wanted_offset
        coarse = p.coarse.object_translation - p.coarse.joints[:, 0] - wanted_offset
        return mean_where((final.abs() + coarse.abs()) / (2 * LENGTH_UNIT), both)

    def chamfer() -> Tensor:
        total = sum(_chamfer(moved, wanted) for moved in rotated)
        return mean_where(total / (4 * LENGTH_UNIT), t.object_valid)

    def matched() -> Tensor:
        total = sum((moved - wanted).abs() for moved in rotated)
        return mean_where(total / (2 * LENGTH_UNIT), t.object_valid)

    def kind() -> Tensor:
        errors = F.cross_entropy(p.object_class, inputs.object_class, reduction="none")
        return mean_where(errors, inputs.object_class > 0)

    return {
        "object_translation": translation,
        "object_points": chamfer,
        "object_rotation": matched,
        "object_class": kind,
    }


def _chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance to the nearest point, both ways added: [B] of [B, N, 3] and [B, M, 3], m."""
    distances = torch.cdist(a, b)
    return distances.amin(dim=1).mean(dim=1) + distances.amin(dim=2).mean(dim=1)
