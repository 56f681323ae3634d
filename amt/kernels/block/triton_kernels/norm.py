"""Residual, LayerScale and LayerNorm in Triton: a program takes a row, which is read once. Statistics and sums in float32.

add_norm_kernel           total = x + scale * branch; its norm in 16 bits, in float32, or in e4m3 with the row's scale
add_norm_backward_kernel  gradients of x and branch; each program adds the parameters' gradients up over its own rows
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.attention.triton_kernels.fp8 import scale_of, to_e4m3


@triton.jit
def add_norm_kernel(
    x,  # [rows, WIDTH]
    branch,
    scale,  # [WIDTH]
    weight,
    bias,
    total,
    normed,
    values,  # e4m3
    scales,  # [rows] float32
    mean,  # [rows] float32
    deviation,  # [rows] float32: 1 / standard deviation
    eps,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # power of two
    BRANCH: tl.constexpr,
    SCALE: tl.constexpr,
    PLAIN: tl.constexpr,  # write ``normed``
    FP8: tl.constexpr,  # write ``values`` and ``scales``
    SAVE: tl.constexpr,  # write ``mean`` and ``deviation``
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0)
    first = row.to(tl.int64) * WIDTH
    channel = tl.arange(0, PADDED)
    there = channel < WIDTH
    value = tl.load(x + first + channel, mask=there, other=0.0).to(tl.float32)
    if BRANCH:
        added = tl.load(branch + first + channel, mask=there, other=0.0).to(tl.float32)
        if SCALE:
            added *= tl.load(scale + channel, mask=there, other=0.0).to(tl.float32)
        value += added
        tl.store(total + first + channel, value.to(total.dtype.element_ty), mask=there)
    centre = tl.sum(value, 0) / WIDTH
    offset = tl.where(there, value - centre, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(offset * offset, 0) / WIDTH + eps)
    factor = tl.load(weight + channel, mask=there, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
    result = offset * inverse * factor + shift
    if PLAIN:
        tl.store(normed + first + channel, result.to(normed.dtype.element_ty), mask=there)
    if FP8:
        row_scale = scale_of(tl.max(tl.abs(result), 0))
        tl.store(values + first + channel, to_e4m3(result / row_scale, UPCAST), mask=there)
        tl.store(scales + row, row_scale)
    if SAVE:
        tl.store(mean + row, centre)
        tl.store(deviation + row, inverse)


@triton.jit
def add_norm_backward_kernel(
    grad_total,  # [rows, WIDTH]
    grad_normed,
    total,
    branch,
    scale,
    weight,
    mean,
    deviation,
    grad_x,
    grad_branch,
    grad_scale,  # [programs, WIDTH] float32: sums over a program's rows
    grad_weight,
    grad_bias,
    rows,
    programs,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BRANCH: tl.constexpr,
    SCALE: tl.constexpr,
    TOTAL: tl.constexpr,  # whether ``grad_total`` is there
):
    program = tl.program_id(0)
    channel = tl.arange(0, PADDED)
    there = channel < WIDTH
    factor = tl.load(weight + channel, mask=there, other=0.0).to(tl.float32)
    if SCALE:
        branch_factor = tl.load(scale + channel, mask=there, other=0.0).to(tl.float32)
    sum_scale = tl.zeros([PADDED], tl.float32)
    sum_weight = tl.zeros([PADDED], tl.float32)
    sum_bias = tl.zeros([PADDED], tl.float32)
    at = program.to(tl.int64) * WIDTH + channel
    for row in range(program, rows, programs):
        inverse = tl.load(deviation + row)
        value = tl.load(total + at, mask=there, other=0.0).to(tl.float32)
        unit = tl.where(there, (value - tl.load(mean + row)) * inverse, 0.0)
        grad = tl.load(grad_normed + at, mask=there, other=0.0).to(tl.float32)
        sum_weight += grad * unit
        sum_bias += grad
        grad *= factor
        grad = (grad - tl.sum(grad, 0) / WIDTH - unit * (tl.sum(grad * unit, 0) / WIDTH)) * inverse
        if TOTAL:
            grad += tl.load(grad_total + at, mask=there, other=0.0).to(tl.float32)
        tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=there)
        if BRANCH:
            if SCALE:
                sum_scale += grad * tl.load(branch + at, mask=there, other=0.0).to(tl.float32)
                grad *= branch_factor
            tl.store(grad_branch + at, grad.to(grad_branch.dtype.element_ty), mask=there)
        at += programs * WIDTH
    at = program.to(tl.int64) * WIDTH + channel
    tl.store(grad_weight + at, sum_weight, mask=there)
    tl.store(grad_bias + at, sum_bias, mask=there)
    if SCALE:
        tl.store(grad_scale + at, sum_scale, mask=there)
