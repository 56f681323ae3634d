"""FP8 attention emulated by casts: the numbers that an FP8 kernel gives, on any device, at no gain in speed.

Forward: K loses its mean over the tokens (softmax does not see it), Q and K are rotated by a Hadamard matrix (q k^T does not
see it, outliers spread over all channels), both take one e4m3 scale a token and V one a channel; the softmax is float32, its
unnormalised weights are e4m3 again. Sums are rounded as Hopper's tensor cores round them, see :func:`_product`.
Backward: that of the attention that was not quantised, in float32 (straight through the quantisers).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from amt.kernels._autocast import no_autocast
from amt.kernels._torch_private import transforms_active
from amt.kernels.attention import reference

LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
STEP = 32  # products that one FP8 tensor-core instruction adds up
PROMOTE = 4  # instructions after which the partial sum is added to a float32 one: the second level
ACCUMULATOR_BITS = 13  # fraction bits of the accumulator between two promotions


_OP = "amt::attention_fp8_emulated"
torch.library.define(_OP, "(Tensor q, Tensor k, Tensor v, float scale) -> Tensor")


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:  # [B, H, N, D], [B, H, M, D] twice
    if transforms_active():  # torch.func and forward-mode AD take no custom op's derivative
        with no_autocast(q.device.type):
            exact = reference.attention(q, k, v, scale)
            return emulate(q.detach(), k.detach(), v.detach(), scale) + (exact - exact.detach())
    return torch.ops.amt.attention_fp8_emulated.default(q, k, v, scale)


@torch.library.impl(_OP, "CompositeExplicitAutograd")
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return emulate(q, k, v, scale)


def emulate(q: Tensor, k: Tensor, v: Tensor, scale: float, *, smooth: bool = True, rotate: bool = True) -> Tensor:
    """The forward, with the two cures for outliers to be switched off one by one. Autocast changes nothing in it."""
    if q.numel() == 0 or k.shape[2] == 0:
        return torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    with no_autocast(q.device.type):
        return _emulate(q, k, v, scale, smooth, rotate)


def _emulate(q: Tensor, k: Tensor, v: Tensor, scale: float, smooth: bool, rotate: bool) -> Tensor:
    dtype = q.dtype
    q, k, v = q.float(), k.float(), v.float()
    if smooth:
        k = k - k.mean(dim=2, keepdim=True)
    if rotate:
        rotation = _hadamard(q.shape[-1], q.device)
        q, k = q @ rotation, k @ rotation
    q8, q_scale = quantize(q, dim=3)
    k8, k_scale = quantize(k, dim=3)
    v8, v_scale = quantize(v, dim=2)
    scores = _product(q8, k8.transpose(2, 3)) * (q_scale * scale) * k_scale.transpose(2, 3)
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    # the largest weight of a row is 1: the scale of e4m3's range is known beforehand
    weights8 = (weights * LARGEST).to(torch.float8_e4m3fn)
    out = _product(weights8, v8) * (v_scale / LARGEST) / weights.sum(dim=-1, keepdim=True)
    return out.to(dtype)


def quantize(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """e4m3 values and their float32 scales, one for all that lies along ``dim``: ``x`` is about values * scales.

    Values beyond e4m3's range saturate (a plain cast gives NaN); NaN stays NaN.
    """
    largest = x.abs().amax(dim=dim, keepdim=True)
    # a row of zeros, or one so small that its scale would not be a normal number, keeps the scale 1
    scale = torch.where(largest / LARGEST < torch.finfo(torch.float32).tiny, 1.0, largest / LARGEST)
    return (x / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def _product(a: Tensor, b: Tensor, promote: int | None = PROMOTE) -> Tensor:
    """a @ b of e4m3 operands, summed in two levels.

    A model of Hopper's tensor core: each instruction adds 32 products to an accumulator that keeps 13 fraction bits and cuts
    off the rest; over thousands of tokens that bias grows, so every fourth partial sum goes to a float32 register.
    ``promote=None`` never does, as a kernel with one level would.
    """
    a, b = a.float(), b.float()
    total = torch.zeros(*a.shape[:-1], b.shape[-1], device=a.device)
    partial = torch.zeros_like(total)
    for i, begin in enumerate(range(0, a.shape[-1], STEP), start=1):
        partial = _cut(partial + a[..., begin : begin + STEP] @ b[..., begin : begin + STEP, :])
        if promote is not None and i % promote == 0:
            total, partial = total + partial, torch.zeros_like(partial)
    return total + partial


def _cut(x: Tensor) -> Tensor:
    """float32 with only the accumulator's fraction bits, toward zero."""
    dropped = 23 - ACCUMULATOR_BITS
    cut = (x.view(torch.int32) >> dropped << dropped).view(torch.float32)
    return torch.where(torch.isfinite(x), cut, x)  # a NaN whose payload is cut off would read as infinity


@functools.lru_cache
def _hadamard(size: int, device: torch.device) -> Tensor:
    """The orthogonal Hadamard matrix of a power of two."""
    matrix = torch.ones(1, 1, device=device)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix / size**0.5


@torch.library.register_fake(_OP)
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _save(ctx, inputs, output) -> None:
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v)


def _backward(ctx, grad_out: Tensor):
    with no_autocast(grad_out.device.type):
        return _gradients(ctx, grad_out)


def _gradients(ctx, grad_out: Tensor):
    q, k, v = (x.float() for x in ctx.saved_tensors)
    dtype, grad_out = ctx.saved_tensors[0].dtype, grad_out.float()
    weights = torch.softmax(q @ k.transpose(2, 3) * ctx.scale, dim=-1)
    grad_weights = grad_out @ v.transpose(2, 3)
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(dim=-1, keepdim=True)) * ctx.scale
    gradients = grad_scores @ k, grad_scores.transpose(2, 3) @ q, weights.transpose(2, 3) @ grad_out
    return *(x.to(dtype) for x in gradients), None


torch.library.register_autograd(_OP, _backward, setup_context=_save)
