"""The definition of ``attention`` in plain PyTorch; every other implementation is held to it."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:  # each [B, H, N, D]
    accumulate = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = q.to(accumulate) @ k.to(accumulate).transpose(-1, -2) * scale
    return (torch.softmax(scores, dim=-1) @ v.to(accumulate)).to(q.dtype)
