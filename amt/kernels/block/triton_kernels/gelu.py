"""GELU in Triton: in the epilogue of a linear layer's product, and with a bias before and e4m3 numbers after it."""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.attention.triton_kernels.fp8 import scale_of, to_e4m3
from amt.kernels.attention.triton_kernels.tiles import dot


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def linear_gelu_kernel(
    x,  # [rows, K]
    weight,  # [N, K]
    bias,  # [N]
    out,  # [rows, N]
    before,  # [rows, N]: what GELU reads, for the backward
    rows,
    K: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,  # of K a step
    GROUP: tl.constexpr,  # row blocks whose programs follow each other, so that they share blocks of weights in L2
    SAVE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program computes [ROWS, UNITS] of the result."""
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, ROWS)
    unit_blocks = (N + UNITS - 1) // UNITS
    group = program // (GROUP * unit_blocks)
    height = tl.minimum(row_blocks - group * GROUP, GROUP)
    within = program % (GROUP * unit_blocks)
    first = (group * GROUP + within % height) * ROWS
    left_rows = rows - first
    row = tl.arange(0, ROWS)
    unit = within // height * UNITS + tl.arange(0, UNITS)
    depth = tl.arange(0, DEPTH)
    # rows and units beyond the last one repeat an inner one: no load is masked but along K
    wide = first.to(tl.int64)
    a = x + wide * K + (row % left_rows)[:, None] * K + depth[None, :]
    b = weight + (unit % N)[None, :] * K + depth[:, None]
    acc = tl.zeros([ROWS, UNITS], tl.float32)
    for start in range(0, K, DEPTH):
        if K % DEPTH == 0:
            left, right = tl.load(a), tl.load(b)
        else:
            left = tl.load(a, mask=(depth < K - start)[None, :], other=0.0)
            right = tl.load(b, mask=(depth < K - start)[:, None], other=0.0)
        acc = dot(left, right, acc, UPCAST)
        a += DEPTH
        b += DEPTH
    there = (row < left_rows)[:, None] & (unit < N)[None, :]
    at = row[:, None] * N + unit[None, :]
    acc += tl.load(bias + unit % N).to(tl.float32)[None, :]
    if SAVE:
        tl.store(before + wide * N + at, acc.to(before.dtype.element_ty), mask=there)
    tl.store(out + wide * N + at, gelu(acc).to(out.dtype.element_ty), mask=there)


@triton.jit
def gelu_quantize_kernel(
    product,  # [rows, WIDTH]
    bias,  # [WIDTH]
    active,  # [rows, WIDTH]
    values,  # [rows, WIDTH] e4m3
    scales,  # [rows] float32
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # power of two
    BIAS: tl.constexpr,
    PLAIN: tl.constexpr,  # write ``active``
    UPCAST: tl.constexpr,
):
    """A program takes a row."""
    row = tl.program_id(0)
    first = row.to(tl.int64) * WIDTH
    unit = tl.arange(0, PADDED)
    there = unit < WIDTH
    value = tl.load(product + first + unit, mask=there, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + unit, mask=there, other=0.0).to(tl.float32)
    value = gelu(value)
    if PLAIN:
        tl.store(active + first + unit, value.to(active.dtype.element_ty), mask=there)
    scale = scale_of(tl.max(tl.abs(value), 0))
    tl.store(values + first + unit, to_e4m3(value / scale, UPCAST), mask=there)
    tl.store(scales + row, scale)
