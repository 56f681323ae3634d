"""A transformer block's ops in Triton: launches and custom ops. float16, bfloat16 and float32, sums in float32."""

from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor

from amt.kernels import _torch_private, _triton
from amt.kernels._plans import planned
from amt.kernels.block.reference import Quantized
from amt.kernels.block.triton_kernels.gelu import gelu_quantize_kernel, linear_gelu_kernel
from amt.kernels.block.triton_kernels.norm import add_norm_backward_kernel, add_norm_kernel

PROGRAMS = 256  # of add_norm's backward; not the card's multiprocessors, so that the bits are those of any card
DEPTH, GROUP = 64, 8  # of linear_gelu's product
E4M3 = torch.float8_e4m3fn

_NORM, _NORM_BACKWARD = "amt::add_norm_triton", "amt::add_norm_triton_backward"
_LINEAR, _QUANTIZE = "amt::linear_gelu_triton", "amt::gelu_quantize_triton"
torch.library.define(
    _NORM,
    "(Tensor x, Tensor? branch, Tensor? scale, Tensor weight, Tensor bias, float eps, ScalarType dtype, bool plain, bool fp8, "
    "bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    _NORM_BACKWARD,
    "(Tensor? grad_total, Tensor grad_normed, Tensor total, Tensor? branch, Tensor? scale, Tensor weight, Tensor mean, "
    "Tensor deviation, ScalarType x_dtype, ScalarType branch_dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(_LINEAR, "(Tensor x, Tensor weight, Tensor bias, bool save) -> (Tensor, Tensor)")
torch.library.define(_QUANTIZE, "(Tensor product, Tensor? bias, bool plain) -> (Tensor, Tensor, Tensor)")


def add_norm(
    x, branch, scale, weight, bias, eps: float, dtype: torch.dtype, fp8: bool
) -> tuple[Tensor, Tensor, Quantized | None]:
    """As the reference. Without a gradient to follow, ``fp8`` leaves the plain numbers out."""
    needed = _needs_gradient(x, branch, scale, weight, bias)
    arguments = (x, branch, scale, weight, bias, eps, dtype, needed or not fp8, fp8, needed)
    total, normed, values, scales, _, _ = _call(torch.ops.amt.add_norm_triton.default, needed, *arguments)
    return x if branch is None else total, normed, (values, scales) if fp8 else None


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As the reference."""
    needed = _needs_gradient(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    out, _ = _call(torch.ops.amt.linear_gelu_triton.default, needed, rows, weight, bias, needed)
    return out.view(*x.shape[:-1], out.shape[1])


def gelu_quantize(product: Tensor, bias: Tensor | None) -> tuple[Tensor, Quantized]:
    """As the reference. Without a gradient to follow, the plain numbers are left out."""
    needed = _needs_gradient(product, bias)
    active, values, scales = _call(torch.ops.amt.gelu_quantize_triton.default, needed, product, bias, needed)
    return active, (values, scales)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _call(op, needed: bool, *arguments):
    if torch.compiler.is_compiling() or needed:
        return op(*arguments)
    # autograd registered in Python costs several launches on the host
    with _torch_private.AutoDispatchBelowAutograd():
        return op(*arguments)


def warps(width: int) -> int:
    """Of a program that holds a row: eight numbers a thread, in two to eight warps."""
    return min(8, max(2, triton.next_power_of_2(width) // 256))


def product_blocks(rows: int, units: int) -> tuple[dict[str, int], int, int]:
    """linear_gelu's tiles, warps and stages, from the shape alone: smaller ones where large ones would leave the card idle.

    Tiles of 128 x 256 spill: GELU needs registers beside the sums.
    """
    if rows * units >= 132 * 128 * 128:
        return {"ROWS": 128, "UNITS": 128}, 8, 4
    return {"ROWS": 64, "UNITS": 64}, 4, 4


def _sum_dtype(x: Tensor, branch: Tensor | None, scale: Tensor | None) -> torch.dtype:
    dtypes = [t.dtype for t in (x, branch, scale) if t is not None]
    return functools.reduce(torch.promote_types, dtypes)


def _empty_norm(x, branch, scale, dtype, plain, fp8, save):
    """What the forward writes; tensors that are not asked for have no numbers."""
    rows = x.shape[:-1]
    count = rows.numel() if save else 0
    return (
        x.new_empty((0,) if branch is None else x.shape, dtype=_sum_dtype(x, branch, scale)),
        x.new_empty(x.shape if plain else (0,), dtype=dtype),
        x.new_empty(x.shape if fp8 else (0,), dtype=E4M3),
        x.new_empty((*rows, 1) if fp8 else (0,), dtype=torch.float32),
        x.new_empty(count, dtype=torch.float32),
        x.new_empty(count, dtype=torch.float32),
    )


def norm_forward(x, branch, scale, weight, bias, eps, dtype, plain, fp8, save):
    results = _empty_norm(x, branch, scale, dtype, plain, fp8, save)
    width, rows = x.shape[-1], x.shape[:-1].numel()
    if rows == 0:
        return results
    x, branch, scale, weight, bias = (None if t is None else t.contiguous() for t in (x, branch, scale, weight, bias))
    inputs = tuple(x if t is None else t for t in (x, branch, scale, weight, bias))
    flags = (branch is not None, scale is not None, plain, fp8, save)
    total, normed, values, *rest = results
    written = (total, normed, values if fp8 else total, *rest)  # a card without e4m3 does not know the type
    launch = _triton.launcher(("add_norm", dtype, flags, *map(_triton.signature, inputs)))
    with torch.cuda.device_of(x):
        launch(
            add_norm_kernel,
            (rows,),
            *inputs,
            *written,
            eps,
            warps=warps(width),
            WIDTH=width,
            PADDED=triton.next_power_of_2(width),
            BRANCH=flags[0],
            SCALE=flags[1],
            PLAIN=plain,
            FP8=fp8,
            SAVE=save,
            UPCAST=_triton.INTERPRETED,
        )
    return results


def norm_backward(grad_total, grad_normed, total, branch, scale, weight, mean, deviation, x_dtype, branch_dtype):
    width, rows = total.shape[-1], total.shape[:-1].numel()
    grad_x, grad_branch, *sums = _empty_norm_gradients(total, branch, scale, weight, x_dtype, branch_dtype)
    if rows == 0:
        return grad_x, grad_branch, *(s.zero_() for s in sums)
    programs = min(PROGRAMS, rows)
    parts = [total.new_empty(programs, width, dtype=torch.float32) for _ in range(3)]
    given = (grad_total, grad_normed, total, branch, scale, weight)
    given = [None if t is None else t.contiguous() for t in given]
    inputs = tuple(total if t is None else t for t in given)
    flags = (branch is not None, scale is not None, grad_total is not None)
    launch = _triton.launcher(("add_norm_backward", x_dtype, branch_dtype, flags, *map(_triton.signature, inputs)))
    with torch.cuda.device_of(total):
        launch(
            add_norm_backward_kernel,
            (programs,),
            *inputs,
            mean,
            deviation,
            grad_x,
            grad_branch,
            *parts,
            rows,
            programs,
            warps=warps(width),
            WIDTH=width,
            PADDED=triton.next_power_of_2(width),
            BRANCH=flags[0],
            SCALE=flags[1],
            TOTAL=flags[2],
        )
    # sums over the leading axis run in a fixed order
    for gradient, part in zip(sums, parts):
        if gradient.numel():
            gradient.copy_(part.sum(0))
    return grad_x, grad_branch, *sums


def _empty_norm_gradients(total, branch, scale, weight, x_dtype, branch_dtype):
    return (
        total.new_empty(total.shape, dtype=x_dtype),
        total.new_empty((0,) if branch is None else total.shape, dtype=branch_dtype),
        total.new_empty((0,)) if scale is None else torch.empty_like(scale),
        torch.empty_like(weight),
        torch.empty_like(weight),
    )


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    (rows, depth), units = x.shape, weight.shape[0]
    out, before = x.new_empty(rows, units), x.new_empty((rows, units) if save else (0,))
    if out.numel() == 0:
        return out, before
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    blocks, num_warps, stages = product_blocks(rows, units)
    launch = _triton.launcher(("linear_gelu", save, *map(_triton.signature, (x, weight, bias))))
    with torch.cuda.device_of(x):
        launch(
            linear_gelu_kernel,
            (-(-rows // blocks["ROWS"]) * -(-units // blocks["UNITS"]),),
            x,
            weight,
            bias,
            out,
            before,
            rows,
            warps=num_warps,
            stages=stages,
            K=depth,
            N=units,
            **blocks,
            DEPTH=DEPTH,
            GROUP=GROUP,
            SAVE=save,
            UPCAST=_triton.INTERPRETED,
        )
    return out, before


def quantize_forward(product: Tensor, bias: Tensor | None, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    width, rows = product.shape[-1], product.shape[:-1].numel()
    results = _empty_quantized(product, plain)
    if product.numel() == 0:
        return results
    product = product.contiguous()
    inputs = (product, product if bias is None else bias.contiguous())
    launch = _triton.launcher(("gelu_quantize", bias is None, plain, *map(_triton.signature, inputs)))
    with torch.cuda.device_of(product):
        launch(
            gelu_quantize_kernel,
            (rows,),
            *inputs,
            *results,
            warps=warps(width),
            WIDTH=width,
            PADDED=triton.next_power_of_2(width),
            BIAS=bias is not None,
            PLAIN=plain,
            UPCAST=_triton.INTERPRETED,
        )
    return results


def _empty_quantized(product: Tensor, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    return (
        product.new_empty(product.shape if plain else (0,)),
        product.new_empty(product.shape, dtype=E4M3),
        product.new_empty(*product.shape[:-1], 1, dtype=torch.float32),
    )


_norm_forward, _norm_backward = planned("add_norm")(norm_forward), planned("add_norm backward")(norm_backward)
_linear_forward, _quantize_forward = planned("linear_gelu")(linear_forward), planned("gelu_quantize")(quantize_forward)
torch.library.impl(_NORM, "CompositeExplicitAutograd", _norm_forward)
torch.library.impl(_NORM_BACKWARD, "CompositeExplicitAutograd", _norm_backward)
torch.library.impl(_LINEAR, "CompositeExplicitAutograd", _linear_forward)
torch.library.impl(_QUANTIZE, "CompositeExplicitAutograd", _quantize_forward)


@torch.library.register_fake(_NORM)
def _(x, branch, scale, weight, bias, eps, dtype, plain, fp8, save):
    return _empty_norm(x, branch, scale, dtype, plain, fp8, save)


@torch.library.register_fake(_NORM_BACKWARD)
def _(grad_total, grad_normed, total, branch, scale, weight, mean, deviation, x_dtype, branch_dtype):
    return _empty_norm_gradients(total, branch, scale, weight, x_dtype, branch_dtype)


@torch.library.register_fake(_LINEAR)
def _(x, weight, bias, save):
    shape = x.shape[0], weight.shape[0]
    return x.new_empty(shape), x.new_empty(shape if save else (0,))


@torch.library.register_fake(_QUANTIZE)
def _(product, bias, plain):
    return _empty_quantized(product, plain)


def _save_norm(ctx, inputs, output) -> None:
    x, branch, scale, weight, *_, ctx.saved = inputs
    total, _, *others = output
    ctx.mark_non_differentiable(*others)
    ctx.x_dtype, ctx.bias_dtype = x.dtype, inputs[4].dtype
    if ctx.saved:
        ctx.save_for_backward(x if branch is None else total, branch, scale, weight, *others[2:])


def _norm_derivative(ctx, grad_total, grad_normed, *_):
    if not ctx.saved:
        raise RuntimeError(f"{_NORM} saved nothing for its backward: its last argument was False")
    total, branch, scale, weight, mean, deviation = ctx.saved_tensors
    if grad_normed is None:
        grad_normed = torch.zeros_like(total)
    dtype = total.dtype if branch is None else branch.dtype
    grad_x, grad_branch, grad_scale, grad_weight, grad_bias = torch.ops.amt.add_norm_triton_backward.default(
        None if branch is None else grad_total, grad_normed, total, branch, scale, weight, mean, deviation,
        ctx.x_dtype, dtype,
    )  # fmt: skip
    return (
        grad_x,
        None if branch is None else grad_branch,
        None if scale is None else grad_scale,
        grad_weight,
        grad_bias.to(ctx.bias_dtype),
        *[None] * 5,
    )


def _save_linear(ctx, inputs, output) -> None:
    x, weight, _, ctx.saved = inputs
    ctx.mark_non_differentiable(output[1])
    if ctx.saved:
        ctx.save_for_backward(x, weight, output[1])


def _linear_derivative(ctx, grad_out, _):
    if not ctx.saved:
        raise RuntimeError(f"{_LINEAR} saved nothing for its backward: its last argument was False")
    x, weight, before = ctx.saved_tensors
    grad = torch.ops.aten.gelu_backward(grad_out, before)
    needs = ctx.needs_input_grad
    grad_x = grad @ weight if needs[0] else None
    return grad_x, grad.mT @ x if needs[1] else None, grad.sum(0) if needs[2] else None, None


def _save_quantize(ctx, inputs, output) -> None:
    product, bias, ctx.saved = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(product, bias)


def _quantize_derivative(ctx, grad_active, *_):
    if not ctx.saved:
        raise RuntimeError(f"{_QUANTIZE} wrote nothing that has a gradient: its last argument was False")
    product, bias = ctx.saved_tensors
    before = product if bias is None else product + bias.to(product.dtype)
    grad = torch.ops.aten.gelu_backward(grad_active, before)
    return grad, None if bias is None else grad.flatten(0, -2).sum(0).to(bias.dtype), None


def _refuse(ctx, *gradients):
    raise RuntimeError(
        "amt.kernels.block.add_norm has no double backward in Triton: "
        'run it inside `with amt.kernels.use("reference")`, which is differentiable any number of times'
    )


torch.library.register_autograd(_NORM, _norm_derivative, setup_context=_save_norm)
torch.library.register_autograd(_NORM_BACKWARD, _refuse)
torch.library.register_autograd(_LINEAR, _linear_derivative, setup_context=_save_linear)
torch.library.register_autograd(_QUANTIZE, _quantize_derivative, setup_context=_save_quantize)
