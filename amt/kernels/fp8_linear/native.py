"""An FP8 product with its epilogue by CUTLASS: the function that the dispatch takes. The kernels stand in csrc/fp8_linear."""

from __future__ import annotations

import torch
from torch import Tensor

_op = torch.ops.amt.fp8_linear.default


@torch.library.register_fake("amt::fp8_linear")
def _empty(x, x_scale, weight, weight_scale, bias, gelu: bool, factor: Tensor | None) -> Tensor:
    dtype = torch.bfloat16 if factor is None else torch.float8_e4m3fn
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=dtype)


def fp8_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    gelu: bool,
    factor: Tensor | None,
) -> Tensor:
    """As ``amt.kernels.fp8_linear.epilogue.fused``, on a Hopper card."""
    scales = (t if t is None else t.contiguous() for t in (x_scale, weight_scale, bias, factor))
    x_scale, weight_scale, bias, factor = scales
    return _op(x.contiguous(), x_scale, weight.contiguous(), weight_scale, bias, gelu, factor)
