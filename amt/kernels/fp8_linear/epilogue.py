"""``fused``: an FP8 product with what follows it in its epilogue: scales, bias, GELU, and e4m3 for the next product.

CUTLASS computes it on Hopper (csrc/fp8_linear, built where AMT_CUTLASS=on asks for it), plain PyTorch elsewhere. It has no
gradient. Results in e4m3 need their scale before a row's largest magnitude is known: :func:`bound` gives one that no
row exceeds, from the weights alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.kernels import _backend, _checks, _native
from amt.kernels.attention.fp8 import LARGEST

E4M3 = torch.float8_e4m3fn
MULTIPLE = 16  # of both sizes of a weight: what the hardware takes
SLACK = 1.125  # e4m3 rounds x and the weights by 1/16 each at most
LEAST_GELU = 0.17  # the largest magnitude of GELU below 0

Quantized = tuple[Tensor, Tensor]  # e4m3 values and float32 scales


def fused(
    x: Quantized, weight: Quantized, bias: Tensor | None = None, *, gelu: bool = False, factor: Tensor | None = None
) -> Tensor:
    """``x weight^T + bias`` of e4m3 operands with their scales; then GELU (erf); then times ``factor``, in e4m3.

    Args:
        x: [M, K] e4m3, and scales [M, 1], or [1, 1] for all rows.
        weight: [N, K] e4m3, and scales [N, 1]. K and N are multiples of 16.
        bias: [N] float32, or ``None``.
        gelu: whether GELU follows.
        factor: [M, 1] or [1, 1] float32: 1 / the scale of the result, which saturates at 448. ``None``: no e4m3. Needs ``gelu``.

    Returns:
        [M, N]: bf16, or e4m3 where there is a ``factor``.

    Raises:
        TypeError, ValueError: an argument of a wrong dtype, shape or device; the message names it.
    """
    (values, scales), (weights, weight_scales) = x, weight
    _checks.tensor("fp8_linear", "x", values, ("M", "K"), (E4M3,))
    rows, depth = values.shape
    _checks.tensor("fp8_linear", "weight", weights, ("N", depth), (E4M3,), like=values)
    units = weights.shape[0]
    if depth == 0 or depth % MULTIPLE or units % MULTIPLE:
        raise ValueError(f"fp8_linear: weight must have multiples of 16 for its sizes, got {list(weights.shape)}")
    _row_scale("scales of x", scales, rows, values)
    _checks.tensor("fp8_linear", "scales of weight", weight_scales, (units, 1), (torch.float32,), like=values)
    if bias is not None:
        _checks.tensor("fp8_linear", "bias", bias, (units,), (torch.float32,), like=values)
    if factor is not None:
        _row_scale("factor", factor, rows, values)
        if not gelu:
            raise ValueError("fp8_linear: factor needs gelu=True, got gelu=False")
    run = _backend.choose("fp8_linear", values.device, values.dtype)
    return run(values, scales, weights, weight_scales, bias, gelu, factor)


def _row_scale(name: str, value: Tensor, rows: int, like: Tensor) -> None:
    size = 1 if isinstance(value, Tensor) and value.shape[:1] == (1,) else rows
    _checks.tensor("fp8_linear", name, value, (size, 1), (torch.float32,), like=like)


def bound(weight: Tensor, bias: Tensor | None, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """What no |gelu(weight layer_norm(x) + bias)| exceeds, for any x: a scalar.

    A normed row before the norm's own weight has mean 0 and a length of sqrt(K) at most. So a unit with the weights w gives
    sqrt(K) |centred(w * norm_weight)| + w norm_bias + bias at most (Cauchy and Schwarz). :data:`SLACK` is for e4m3's rounding.

    Args:
        weight: [N, K]; bias: [N] or ``None``; norm_weight, norm_bias: [K].
    """
    weight, norm_weight, norm_bias = weight.float(), norm_weight.float(), norm_bias.float()
    scaled = weight * norm_weight
    length = (scaled - scaled.mean(1, keepdim=True)).norm(dim=1) * weight.shape[1] ** 0.5
    offset = weight @ norm_bias if bias is None else weight @ norm_bias + bias.float()
    return (SLACK * length + offset).amax().clamp(min=LEAST_GELU)


def reference(
    x: Tensor,  # [M, K] e4m3
    x_scale: Tensor,  # [M, 1] or [1, 1]
    weight: Tensor,  # [N, K] e4m3
    weight_scale: Tensor,  # [N, 1]
    bias: Tensor | None,  # [N]
    gelu: bool,
    factor: Tensor | None,  # [M, 1] or [1, 1]
) -> Tensor:
    out = x.float() @ weight.float().t() * weight_scale.t() * x_scale
    if bias is not None:
        out = out + bias
    if gelu:
        out = F.gelu(out)
    if factor is None:
        return out.to(torch.bfloat16)
    return (out * factor).clamp(-LARGEST, LARGEST).to(E4M3)


def reason(device: torch.device, dtype: torch.dtype = E4M3) -> str | None:
    """Why CUTLASS's kernel cannot run on ``device``; ``None`` where it can."""
    if device.type != "cuda":
        return "it runs on cuda tensors only"
    missing = _native.missing("fp8_linear", "cuda")
    if missing is not None:
        return f"{missing}; it needs CUTLASS: `pip install --no-deps nvidia-cutlass`, then install again with AMT_CUTLASS=on"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA card"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major == 9 else f"it is compiled for compute capability 9.0, the card has {major}.{minor}"


def _load_native():
    from amt.kernels.fp8_linear.native import fp8_linear

    return fp8_linear


_backend.register(
    "fp8_linear",
    [
        _backend.Implementation("cuda", _load_native, reason),
        # no slow stand-in that needs a warning: whoever wants CUTLASS's asks for it by name
        _backend.Implementation("reference", lambda: reference, _backend.runs_everywhere),
    ],
)
