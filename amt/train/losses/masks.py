"""Labels that are missing: they reach neither the loss nor a gradient."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from amt.hand.batch import Targets
from amt.model.outputs import Prediction
from amt.train import ranks

FAR = 0.5  # m: where fillers lie, in front of the camera


def mean_where(value: Tensor, valid: Tensor) -> Tensor:
    """The mean over the samples of ``valid`` [B] of ``value`` [B, ...], of all ranks together; 0 where there is none."""
    per_sample = value.flatten(1).mean(dim=1) if value.dim() > 1 else value
    total, count = ranks.summed(torch.where(valid, per_sample, 0.0).sum(), valid.sum())
    return total / count.clamp(min=1)


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of all numbers of ``value`` of all ranks together, which may have different numbers of samples."""
    if ranks.size() == 1:
        return value.mean()
    total, count = ranks.summed(value.sum(), value.new_full((), value.numel()))
    return total / count


def with_fillers(targets: Targets) -> Targets:
    """The targets with finite numbers in the fields of samples whose flags are False.

    A mask behind the term is not enough: the gradient of a masked NaN is 0 x NaN, which is NaN.
    """
    hand = {name: getattr(targets, name) for name in ("joints", "vertices", "translation", "pose", "betas")}
    body = {name: getattr(targets, name) for name in ("object_translation", "object_rotation")}
    identity = torch.eye(3, device=targets.object_rotation.device, dtype=targets.object_rotation.dtype)
    fillers = {"object_rotation": identity, "pose": 0.0, "betas": 0.0}
    filled = {name: _filled(value, targets.hand_valid, fillers.get(name, FAR)) for name, value in hand.items()}
    filled |= {name: _filled(value, targets.object_valid, fillers.get(name, FAR)) for name, value in body.items()}
    return replace(targets, **filled)


def _filled(value: Tensor, valid: Tensor, filler: Tensor | float) -> Tensor:
    return torch.where(valid.reshape(-1, *[1] * (value.dim() - 1)), value, filler)


def check_float32(prediction: Prediction, targets: Targets) -> None:
    """Raises TypeError for labels or coordinates in a 16-bit type, whose spacing at half a metre is 4 mm."""
    for owner, value in (("prediction", prediction), ("targets", targets)):
        for name, tensor in value.named_tensors():
            if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
                raise TypeError(f"{owner}.{name} must be float32, got {tensor.dtype}: it cannot hold millimetres")
