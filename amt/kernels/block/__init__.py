"""What a transformer block does between its matrix products, fused: residual, LayerScale and LayerNorm; GELU; e4m3 operands.

    add_norm        x + scale * branch, and its layer norm, in one pass over memory
    linear_gelu     a linear layer with GELU in the product's epilogue
    gelu_quantize   bias, GELU and e4m3 numbers, for an FP8 product that follows

In Triton on a CUDA card; plain PyTorch elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _triton

_TRITON = (torch.float16, torch.bfloat16, torch.float32)


class Operand(NamedTuple):
    """What a linear layer reads: 16-bit or float32 numbers, and the same in e4m3 where an FP8 product follows."""

    plain: Tensor  # [..., D]; without numbers where only ``values`` are read and no gradient is needed
    values: Tensor | None = None  # [..., D] e4m3
    scales: Tensor | None = None  # [..., 1] float32: plain is about values * scales


def add_norm(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    fp8: bool = False,
) -> tuple[Tensor, Operand]:
    """``total = x + scale * branch`` and ``layer_norm(total) * weight + bias``.

    Args:
        x: [..., D], the residual stream, a floating dtype.
        branch: [..., D], what is added; ``None``: nothing, and ``total`` is ``x``.
        scale: [D], LayerScale's factors; ``None``: 1.
        weight, bias: [D], of the norm.
        eps: added to the variance.
        dtype: of the normed numbers; the dtype of ``x`` by default. Statistics are float32, or float64 for such inputs.
        fp8: whether to give the normed numbers in e4m3 as well, with one scale a row, quantised from the float32 result. No
            gradient passes through them.

    Returns:
        ``total`` in the dtype that PyTorch's addition gives, and an :class:`Operand`.

    Raises:
        TypeError, ValueError: an argument of a wrong dtype, shape or device; the message names it.
    """
    _check_rows("add_norm", "x", x)
    if branch is not None:
        _checks.tensor("add_norm", "branch", branch, tuple(x.shape), _checks.FLOATS, like=x)
    for name, value in (("scale", scale), ("weight", weight), ("bias", bias)):
        if value is not None or name != "scale":
            _checks.tensor("add_norm", name, value, (x.shape[-1],), _checks.FLOATS, like=x)
    if scale is not None and branch is None:
        raise ValueError("add_norm: scale needs a branch, got None")
    run = _backend.choose("add_norm", x.device, x.dtype)
    total, normed, quantized = run(x, branch, scale, weight, bias, eps, x.dtype if dtype is None else dtype, fp8)
    return total, Operand(normed, *(quantized or ()))


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x weight^T + bias), GELU in its exact form (erf).

    Args:
        x: [..., K]; weight: [N, K]; bias: [N]; one floating dtype.

    Returns:
        [..., N] in that dtype. In Triton GELU reads the float32 sums, not their rounded values.

    Raises:
        TypeError, ValueError: an argument of a wrong dtype, shape or device; the message names it.
    """
    _check_rows("linear_gelu", "x", x)
    _checks.tensor("linear_gelu", "weight", weight, ("N", x.shape[-1]), (x.dtype,), like=x)
    _checks.tensor("linear_gelu", "bias", bias, (weight.shape[0],), (x.dtype,), like=x)
    return _backend.choose("linear_gelu", x.device, x.dtype)(x, weight, bias)


def gelu_quantize(product: Tensor, bias: Tensor | None) -> Operand:
    """gelu(product + bias) and the same in e4m3 with one scale a row, quantised from float32.

    Args:
        product: [..., N], a floating dtype.
        bias: [N] of any floating dtype, or ``None``.

    Raises:
        TypeError, ValueError: an argument of a wrong dtype, shape or device; the message names it.
    """
    _check_rows("gelu_quantize", "product", product)
    if bias is not None:
        _checks.tensor("gelu_quantize", "bias", bias, (product.shape[-1],), _checks.FLOATS, like=product)
    active, quantized = _backend.choose("gelu_quantize", product.device, product.dtype)(product, bias)
    return Operand(active, *quantized)


def _check_rows(op: str, name: str, value: Tensor) -> None:
    """Raises TypeError or ValueError unless ``value`` is a floating tensor whose rows hold a channel or more."""
    dimensions = value.dim() if isinstance(value, Tensor) else 1
    _checks.tensor(op, name, value, ("...",) * dimensions, _checks.FLOATS)
    if dimensions == 0 or value.shape[-1] == 0:
        raise ValueError(f"{op}: {name} must have at least one channel in its last dimension, got {list(value.shape)}")


def _triton_functions():
    from amt.kernels.block import triton

    return triton


def _reference_functions():
    from amt.kernels.block import reference

    return reference


def _register(name: str, dtypes: tuple[torch.dtype, ...], said: str) -> None:
    def reason(device: torch.device, dtype: torch.dtype) -> str | None:
        return _triton.missing(device) if dtype in dtypes else f"it computes in {said}"

    def by(name_of_implementation: str, functions, reason, **options) -> _backend.Implementation:
        return _backend.Implementation(name_of_implementation, lambda: getattr(functions(), name), reason, **options)

    _backend.register(
        name,
        [
            by("triton", _triton_functions, reason),
            # no slow stand-in that needs a warning: it is what PyTorch's own block does
            by("reference", _reference_functions, _backend.runs_everywhere, transforms=True),
        ],
    )


_register("add_norm", _TRITON, "float16, bfloat16 and float32")
_register("linear_gelu", _TRITON[:2], "float16 and bfloat16")
_register("gelu_quantize", _TRITON, "float16, bfloat16 and float32")
