"""Floating-point operations of the ops that PyTorch's counter cannot look into: matrix products only, a multiply-add is two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import sdpa_flop_count

from amt.kernels._torch_private import flash_attention_for_cpu


def formulas() -> dict[Any, Callable[..., int]]:
    """What ``torch.utils.flop_counter.FlopCounterMode(custom_mapping=...)`` takes; ops that are not built are left out."""
    known = {flash_attention_for_cpu: _attention}
    for name, formula in (("refine", _refine), ("frame_pointnet", _frame_pointnet)):
        if hasattr(torch.ops.amt, name):
            known[getattr(torch.ops.amt, name)] = formula
    return known


def _attention(q, k, v, *arguments, out_shape=None, **options) -> int:
    return sdpa_flop_count(q, k, v)


def _refine(joints, intrinsics, maps, w1, *arguments, out_shape=None, **options) -> int:
    """Both layers of each step's MLP for every joint: [B, J, 3] and w1 [S, D, C + 3]."""
    steps, hidden, channels = w1
    return 2 * joints[0] * joints[1] * steps * hidden * (channels + 3)


def _frame_pointnet(points, origins, rotations, w1, b1, w2, *arguments, out_shape=None, **options) -> int:
    """Both layers for every point in every frame: [B, N, 3], [B, F, 3] and w2 [D2, D1]."""
    return 2 * points[0] * points[1] * origins[1] * w2[1] * (3 + w2[0])
