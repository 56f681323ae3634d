"""``attention``: softmax(q k^T scale) v over [B, H, N, D], exact at the inputs' dtype, with bf16 products, or with FP8 ones."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _triton
from amt.kernels.attention import dispatch, reference

PRECISIONS = ("auto", "bf16", "fp8")
FP8_HEAD_SIZES = (64, 128)
_LOW = (torch.float16, torch.bfloat16, torch.float32)  # what bf16 and FP8 products are taken from


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, precision: str = "auto", backend: str = "auto"
) -> Tensor:
    """softmax(q k^T scale) v for every batch item and head; no mask, no dropout.

    Args:
        q: [B, H, N, D], float16, bfloat16, float32 or float64.
        k, v: [B, H, M, D] in the dtype of ``q``; M is N in self-attention. Without keys (M = 0) the result is zeros.
        scale: factor of the scores, D ** -0.5 by default.
        precision: ``"auto"``: the fastest that computes in the inputs' dtype. ``"bf16"``: 16-bit products with float32
            sums, also for float32 inputs. ``"fp8"``: e4m3 products (about 5e-2 relative error on normal data, bf16 has
            5e-3), D 64 or 128, gradients as if nothing had been quantised; emulated by casts where there is no FP8 kernel.
        backend: who computes it. ``"auto"``: the fastest for this shape in this card's table (``python -m amt.kernels tune``
            measures one), PyTorch's scaled_dot_product_attention where there is none. Or by name: sdpa, sdpa_cudnn,
            sdpa_flash, sdpa_efficient, triton, flex, fa2, fa3, fa4, xformers, te. Not together with ``"fp8"``.

    Returns:
        [B, H, N, D] in the dtype of ``q``; under autocast PyTorch's back ends give autocast's. NaN comes out only in the
        batch item and head in which it came in.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape, device or value; the message names it.
        BackendUnavailable: the named back end cannot run here; the message has the reason.
    """
    _check(q, k, v, scale, precision, backend)
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    if backend != "auto":
        return _by_name(backend, q, k, v, scale, precision)
    if precision == "fp8":
        return _backend.choose("attention_fp8", q.device, q.dtype)(q, k, v, scale)
    if precision == "bf16" and q.dtype == torch.float32:
        half = (x.to(torch.bfloat16) for x in (q, k, v))
        return _backend.choose("attention", q.device, torch.bfloat16)(*half, scale).to(q.dtype)
    return _backend.choose("attention", q.device, q.dtype)(q, k, v, scale)


def _by_name(backend: str, q: Tensor, k: Tensor, v: Tensor, scale: float, precision: str) -> Tensor:
    if precision == "fp8":
        raise ValueError(f"attention: precision 'fp8' has one implementation; backend must be auto, got {backend!r}")
    dtype = q.dtype
    if precision == "bf16" and dtype == torch.float32:
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    return dispatch.by_name(backend, q, k)(q, k, v, scale).to(dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, scale: float | None, precision: str, backend: str) -> None:
    if not isinstance(backend, str):
        raise TypeError(f"attention: backend must be text, such as 'auto' or 'sdpa', got {type(backend).__name__}")
    if precision not in PRECISIONS:
        raise ValueError(f"attention: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtypes = _checks.FLOATS if precision == "auto" else _LOW
    _checks.tensor("attention", "q", q, ("B", "H", "N", "D"), dtypes)
    batch, heads, _, size = q.shape
    _checks.tensor("attention", "k", k, (batch, heads, "M", size), (q.dtype,), like=q)
    _checks.tensor("attention", "v", v, tuple(k.shape), (q.dtype,), like=q)
    if size == 0:
        raise ValueError("attention: q must have a head size D of at least 1, got 0")
    if precision == "fp8" and size not in FP8_HEAD_SIZES:
        raise ValueError(f"attention: precision 'fp8' takes a head size D of 64 or 128, got {size}")
    if scale is not None and not (isinstance(scale, int | float) and abs(scale) <= sys.float_info.max):
        raise ValueError(f"attention: scale must be a finite number or None, got {scale!r}")


def _load_triton():
    from amt.kernels.attention.triton import attention

    return attention


def _no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.float16, torch.bfloat16):
        return "it computes in float16 and bfloat16"
    return _triton.missing(device)


def _load_fp8_triton():
    from amt.kernels.attention.fp8_triton import attention

    return attention


def _no_fp8_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    missing = _triton.missing(device)
    if missing is not None or device.type != "cuda":
        return missing
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return "the card has no FP8 products: they came with compute capability 8.9"
    return None


def _load_fp8():
    from amt.kernels.attention.fp8 import attention

    return attention


_backend.register(
    "attention",
    [
        _backend.Implementation("sdpa", lambda: dispatch.attention, _backend.runs_everywhere, transforms=True),
        _backend.Implementation("triton", _load_triton, _no_triton),
        _backend.Implementation(
            "reference", lambda: reference.attention, _backend.runs_everywhere, fast=False, transforms=True
        ),
    ],
)
_backend.register(
    "attention_fp8",
    [
        _backend.Implementation("triton", _load_fp8_triton, _no_fp8_triton),
        # no stand-in that needs a warning: who asks for FP8 on a CPU wants its numbers
        _backend.Implementation("reference", _load_fp8, _backend.runs_everywhere, transforms=True),
    ],
)
