"""Weights stored in FP8: a smaller checkpoint, which every program reads like any other.

A matrix [N, K] becomes e4m3 numbers under its own name, and float32 scales [N, 1] under NAME.fp8_scale: weight = numbers x
scale. What is read becomes float32 again. In :mod:`amt.model.fp8`, on the other hand, the products are FP8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from amt.kernels.attention.fp8 import quantize

SCALE = ".fp8_scale"


def pack(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, those of ``names`` in FP8 with one scale for each of their rows."""
    packed = dict(state)
    for name in names:
        packed[name], packed[name + SCALE] = quantize(state[name].float(), dim=1)
    return packed


def unpack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with FP8 tensors as float32; other tensors as they are.

    Raises:
        RuntimeError: the scales of an FP8 tensor are missing or of another shape.
    """
    plain = {}
    for name, value in state.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in state:
            continue
        if value.dtype == torch.float8_e4m3fn:
            scale = state.get(name + SCALE)
            if scale is None or scale.shape != (value.shape[0], *[1] * (value.dim() - 1)):
                raise RuntimeError(f"{name} is FP8, and its scales {name}{SCALE} are missing or of another shape")
            value = value.float() * scale
        plain[name] = value
    return plain
