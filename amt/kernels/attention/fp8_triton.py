"""FP8 attention in Triton: launches and the custom op. Backward is that of the attention that was not quantised, in bf16."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _torch_private, _triton
from amt.kernels.attention import triton as bf16
from amt.kernels.attention.triton_kernels.fp8 import fp8_kernel, prepare_kernel

ROWS, KEYS, WARPS, STAGES = 128, 128, 8, 2
TILE, PREPARE_WARPS = 64, 4

_OP = "amt::attention_fp8_triton"
torch.library.define(_OP, "(Tensor q, Tensor k, Tensor v, float scale) -> Tensor")


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:  # [B, H, N, D], [B, H, M, D] twice
    """As ``fp8.emulate``; float32 inputs are rounded to bfloat16 first, which e4m3 does not notice."""
    dtype = q.dtype
    if dtype == torch.float32:
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    needed = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if torch.compiler.is_compiling() or needed:
        return torch.ops.amt.attention_fp8_triton.default(q, k, v, scale).to(dtype)
    with _torch_private.AutoDispatchBelowAutograd():
        return torch.ops.amt.attention_fp8_triton.default(q, k, v, scale).to(dtype)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    (batch, heads, rows, size), keys = q.shape, k.shape[2]
    out = bf16.empty(batch, heads, rows, q)
    if out.numel() == 0 or keys == 0:
        return out.zero_()
    inputs = tuple(map(bf16.readable, (q, k, v)))
    count, padded_rows, padded_keys = batch * heads, -(-rows // ROWS) * ROWS, -(-keys // KEYS) * KEYS
    q8, k8, v8 = (
        q.new_empty(count * padded * size, dtype=torch.float8_e4m3fn)
        for padded in (padded_rows, padded_keys, padded_keys)
    )
    scales = [q.new_empty(count, n, dtype=torch.float32) for n in (padded_rows, padded_keys, size)]
    sizes = (heads, rows, keys, padded_rows, padded_keys)
    launch = _triton.launcher(("attention_fp8", *map(_triton.signature, inputs)))
    with torch.cuda.device_of(q):
        launch(
            prepare_kernel,
            (count, 3),
            *inputs,
            q8,
            k8,
            v8,
            *scales,
            *(t.stride()[:2] for t in inputs),
            *sizes,
            warps=PREPARE_WARPS,
            ROW_STRIDES=tuple(t.stride(2) for t in inputs),
            TILE=TILE,
            SIZE=size,
            UPCAST=_triton.INTERPRETED,
        )
        launch(
            fp8_kernel,
            (count, padded_rows // ROWS),
            q8,
            k8,
            v8,
            *scales,
            out,
            out.stride()[:2],
            *sizes,
            scale * bf16.LOG2_E,
            warps=WARPS,
            stages=STAGES,
            OUT_STRIDE=out.stride(2),
            ROWS=ROWS,
            KEYS=KEYS,
            SIZE=size,
            UPCAST=_triton.INTERPRETED,
        )
    return out


torch.library.impl(_OP, "CompositeExplicitAutograd", forward)


@torch.library.register_fake(_OP)
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return bf16.empty(*q.shape[:3], q)


def _save(ctx, inputs, output) -> None:
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v)


def _derivative(ctx, grad_out: Tensor):
    q, k, v = ctx.saved_tensors
    out, log_totals = torch.ops.amt.attention_triton.default(q, k, v, ctx.scale, True)
    return *torch.ops.amt.attention_triton_backward.default(grad_out, q, k, v, out, log_totals, ctx.scale), None


torch.library.register_autograd(_OP, _derivative, setup_context=_save)
