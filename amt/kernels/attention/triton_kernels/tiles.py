"""What the attention kernels share: products, addresses of a head, loads of a tile of rows."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot(a, b, acc, UPCAST: tl.constexpr):
    """acc + a b. Triton's interpreter multiplies bf16 wrongly: it gets float32."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc)


@triton.jit
def head_of(tensor, strides, batch, head):
    """The address of a head's first row. ``strides`` are those of [B, H, N, D]; the last one is 1."""
    return tensor + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]


@triton.jit
def load_rows(base, first, stride: tl.constexpr, limit, ROWS: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr):
    """Rows ``first`` to ``first + ROWS`` of a head, [ROWS, SIZE]; zeros from row ``limit`` on where MASKED."""
    row, channel = tl.arange(0, ROWS), tl.arange(0, SIZE)
    address = base + first * stride + row[:, None] * stride + channel[None, :]
    if MASKED:
        return tl.load(address, mask=(first + row < limit)[:, None], other=0.0)
    return tl.load(address)


@triton.jit
def store_rows(
    base, first, stride: tl.constexpr, limit, value, ROWS: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr
):
    """The inverse of :func:`load_rows`, in the dtype of ``base``."""
    row, channel = tl.arange(0, ROWS), tl.arange(0, SIZE)
    address = base + first * stride + row[:, None] * stride + channel[None, :]
    value = value.to(base.dtype.element_ty)
    if MASKED:
        tl.store(address, value, mask=(first + row < limit)[:, None])
    else:
        tl.store(address, value)


@triton.jit
def load_vector(base, first, limit, ROWS: tl.constexpr, MASKED: tl.constexpr):
    """``ROWS`` floats from ``first`` on; zeros from ``limit`` on where MASKED."""
    row = first + tl.arange(0, ROWS)
    if MASKED:
        return tl.load(base + row, mask=row < limit, other=0.0)
    return tl.load(base + row)
