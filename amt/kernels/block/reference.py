"""The definitions of a transformer block's small ops in plain PyTorch; every other implementation is held to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.kernels.attention.fp8 import quantize

Quantized = tuple[Tensor, Tensor]  # e4m3 values [..., D] and float32 scales [..., 1]


def add_norm(
    x: Tensor,  # [..., D]
    branch: Tensor | None,  # [..., D]
    scale: Tensor | None,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
    dtype: torch.dtype,
    fp8: bool,
) -> tuple[Tensor, Tensor, Quantized | None]:
    total = x
    if branch is not None:
        total = x + (branch if scale is None else branch * scale)
    wide = torch.float64 if total.dtype == torch.float64 else torch.float32
    normed = F.layer_norm(total.to(wide), total.shape[-1:], weight.to(wide), bias.to(wide), eps)
    return total, normed.to(dtype), _quantized(normed) if fp8 else None


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # [..., K], [N, K], [N] -> [..., N]
    return F.gelu(F.linear(x, weight, bias))


def gelu_quantize(product: Tensor, bias: Tensor | None) -> tuple[Tensor, Quantized]:  # [..., N], [N]
    wide = torch.float64 if product.dtype == torch.float64 else torch.float32
    active = F.gelu(product.to(wide) if bias is None else product.to(wide) + bias.to(wide))
    return active.to(product.dtype), _quantized(active)


def _quantized(x: Tensor) -> Quantized:
    return quantize(x.detach().float(), dim=-1)
