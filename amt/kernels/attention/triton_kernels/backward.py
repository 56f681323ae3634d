"""``attention`` backward in Triton: a program owns the gradients of one head's queries, keys and values.

It walks the tiles of keys, and for each of them the tiles of rows: the weights are computed again from the saved logarithms,
and five products give all three gradients. Those of keys and values stay in registers; those of the queries are added up over
the tiles of keys in a float32 buffer that no other program touches. So there are no atomics, and the order of every sum is
fixed.

Loops keep their address arithmetic (``disable_licm``): moved out of the loops, it takes registers until the kernel spills.

Hopper's tensor cores take 64 rows of the left operand, and as few as 8 columns of the right one. Each product is written so
that a small tile of rows or keys left over is on the right: scores are [keys, rows] for whole tiles of keys and [rows, keys]
for the last one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.attention.triton_kernels.tiles import dot, head_of, load_rows, load_vector, store_rows


@triton.jit
def add_grad_query(sums, grad_query, first, is_first):
    """Adds a tile [ROWS, SIZE] to the sums; the first tile of keys finds nothing there yet."""
    SIZE: tl.constexpr = grad_query.shape[1]
    row, channel = tl.arange(0, grad_query.shape[0]), tl.arange(0, SIZE)
    address = sums + first * SIZE + row[:, None] * SIZE + channel[None, :]
    before = tl.load(address, mask=(row[:, None] >= 0) & (is_first == 0), other=0.0)
    tl.store(address, before + grad_query)


@triton.jit
def whole_keys_tile(
    q,
    grad_out,
    log_total,
    delta,
    sums,
    key,  # [KEYS, SIZE]
    value,
    grad_key,
    grad_value,
    first,  # row of the tile
    is_first,  # tile of keys
    STRIDES: tl.constexpr,
    num_rows,
    scale,
    ROWS: tl.constexpr,
    MASKED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """What a tile of rows and a whole tile of keys add to the gradients; scores are [KEYS, ROWS]."""
    KEYS: tl.constexpr = key.shape[0]
    SIZE: tl.constexpr = key.shape[1]
    query = load_rows(q, first, STRIDES[0], num_rows, ROWS, SIZE, MASKED)
    incoming = load_rows(grad_out, first, STRIDES[4], num_rows, ROWS, SIZE, MASKED)
    logarithm = load_vector(log_total, first, num_rows, ROWS, MASKED)
    mean = load_vector(delta, first, num_rows, ROWS, MASKED)
    zeros = tl.zeros([KEYS, ROWS], tl.float32)
    weights = tl.exp2(dot(key, tl.trans(query), zeros, UPCAST) * (scale * 1.4426950408889634) - logarithm[None, :])
    if MASKED:  # rows that are not there must add nothing, not even 0 * inf
        weights = tl.where((first + tl.arange(0, ROWS) < num_rows)[None, :], weights, 0.0)
    grad_value = dot(weights.to(incoming.dtype), incoming, grad_value, UPCAST)
    grad_weights = dot(value, tl.trans(incoming), zeros, UPCAST)
    grad_scores = (weights * (grad_weights - mean[None, :])).to(query.dtype)
    grad_key = dot(grad_scores, query, grad_key, UPCAST)
    if ROWS < 64:
        grad_query = tl.trans(dot(tl.trans(key), grad_scores, tl.zeros([SIZE, ROWS], tl.float32), UPCAST))
    else:
        grad_query = dot(tl.trans(grad_scores), key, tl.zeros([ROWS, SIZE], tl.float32), UPCAST)
    add_grad_query(sums, grad_query, first, is_first)
    return grad_key, grad_value


@triton.jit
def whole_keys(
    q,
    k,
    v,
    grad_out,
    grad_k,
    grad_v,
    log_total,
    delta,
    sums,
    first,  # key of the tile
    STRIDES: tl.constexpr,
    num_rows,
    num_keys,
    scale,
    ROWS: tl.constexpr,
    TAIL_ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """All rows against a whole tile of keys."""
    key = load_rows(k, first, STRIDES[1], num_keys, KEYS, SIZE, False)
    value = load_rows(v, first, STRIDES[2], num_keys, KEYS, SIZE, False)
    grad_key = tl.zeros([KEYS, SIZE], tl.float32)
    grad_value = tl.zeros([KEYS, SIZE], tl.float32)
    is_first = first == 0
    whole = num_rows // ROWS * ROWS
    for start in tl.range(0, whole, ROWS, disable_licm=True):
        grad_key, grad_value = whole_keys_tile(
            q, grad_out, log_total, delta, sums, key, value, grad_key, grad_value,
            start, is_first, STRIDES, num_rows, scale, ROWS, False, UPCAST,
        )  # fmt: skip
    if TAIL_ROWS:
        for start in tl.range(whole, num_rows, TAIL_ROWS, disable_licm=True):  # once or twice
            grad_key, grad_value = whole_keys_tile(
                q, grad_out, log_total, delta, sums, key, value, grad_key, grad_value,
                start, is_first, STRIDES, num_rows, scale, TAIL_ROWS, True, UPCAST,
            )  # fmt: skip
    store_rows(grad_k, first, STRIDES[6], num_keys, grad_key * scale, KEYS, SIZE, False)
    store_rows(grad_v, first, STRIDES[7], num_keys, grad_value, KEYS, SIZE, False)


@triton.jit
def last_keys(
    q,
    k,
    v,
    grad_out,
    grad_k,
    grad_v,
    log_total,
    delta,
    sums,
    first,  # key of the tile
    STRIDES: tl.constexpr,
    num_rows,
    num_keys,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """All rows against the keys that are left over; scores are [ROWS, KEYS], gradients of keys and values [SIZE, KEYS]."""
    key = load_rows(k, first, STRIDES[1], num_keys, KEYS, SIZE, True)
    value = load_rows(v, first, STRIDES[2], num_keys, KEYS, SIZE, True)
    there = (first + tl.arange(0, KEYS) < num_keys)[None, :]
    grad_key = tl.zeros([SIZE, KEYS], tl.float32)
    grad_value = tl.zeros([SIZE, KEYS], tl.float32)
    for start in tl.range(0, num_rows, ROWS, disable_licm=True):
        query = load_rows(q, start, STRIDES[0], num_rows, ROWS, SIZE, True)
        incoming = load_rows(grad_out, start, STRIDES[4], num_rows, ROWS, SIZE, True)
        logarithm = load_vector(log_total, start, num_rows, ROWS, True)
        mean = load_vector(delta, start, num_rows, ROWS, True)
        zeros = tl.zeros([ROWS, KEYS], tl.float32)
        weights = tl.exp2(dot(query, tl.trans(key), zeros, UPCAST) * (scale * 1.4426950408889634) - logarithm[:, None])
        weights = tl.where(there & (start + tl.arange(0, ROWS) < num_rows)[:, None], weights, 0.0)
        grad_value = dot(tl.trans(incoming), weights.to(incoming.dtype), grad_value, UPCAST)
        grad_weights = dot(incoming, tl.trans(value), zeros, UPCAST)
        grad_scores = (weights * (grad_weights - mean[:, None])).to(query.dtype)
        grad_key = dot(tl.trans(query), grad_scores, grad_key, UPCAST)
        grad_query = dot(grad_scores, key, tl.zeros([ROWS, SIZE], tl.float32), UPCAST)
        add_grad_query(sums, grad_query, start, first == 0)
    store_rows(grad_k, first, STRIDES[6], num_keys, tl.trans(grad_key) * scale, KEYS, SIZE, True)
    store_rows(grad_v, first, STRIDES[7], num_keys, tl.trans(grad_value), KEYS, SIZE, True)


@triton.jit
def backward_kernel(
    q,
    k,
    v,
    out,
    grad_out,
    grad_q,
    grad_k,
    grad_v,
    log_totals,  # [B, H, N] float32, base 2, from the forward
    deltas,  # [B, H, N] float32: sums over the channels of out times its gradient; written and read by this kernel
    sums,  # [B, H, N rounded up to ROWS, SIZE] float32: gradients of the queries over the tiles of keys so far
    query_strides,
    key_strides,
    value_strides,
    out_strides,
    grad_out_strides,
    grad_query_strides,
    grad_key_strides,
    grad_value_strides,
    heads,
    num_rows,
    num_keys,
    scale,
    ROW_STRIDES: tl.constexpr,  # of the eight tensors, in their order
    ROWS: tl.constexpr,
    TAIL_ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    TAIL_KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    index = tl.program_id(0)
    batch, head = index // heads, index % heads
    q = head_of(q, query_strides, batch, head)
    k = head_of(k, key_strides, batch, head)
    v = head_of(v, value_strides, batch, head)
    out = head_of(out, out_strides, batch, head)
    grad_out = head_of(grad_out, grad_out_strides, batch, head)
    grad_q = head_of(grad_q, grad_query_strides, batch, head)
    grad_k = head_of(grad_k, grad_key_strides, batch, head)
    grad_v = head_of(grad_v, grad_value_strides, batch, head)
    log_total = log_totals + index.to(tl.int64) * num_rows
    delta = deltas + index.to(tl.int64) * num_rows
    rows = (num_rows + ROWS - 1) // ROWS * ROWS
    sums += index.to(tl.int64) * rows * SIZE
    for start in tl.range(0, num_rows, ROWS, disable_licm=True):
        result = load_rows(out, start, ROW_STRIDES[3], num_rows, ROWS, SIZE, True).to(tl.float32)
        incoming = load_rows(grad_out, start, ROW_STRIDES[4], num_rows, ROWS, SIZE, True).to(tl.float32)
        row = start + tl.arange(0, ROWS)
        tl.store(delta + row, tl.sum(result * incoming, 1), mask=row < num_rows)
    tl.debug_barrier()  # other threads of this program read them
    whole = num_keys // KEYS * KEYS
    for start in tl.range(0, whole, KEYS, disable_licm=True):
        whole_keys(
            q, k, v, grad_out, grad_k, grad_v, log_total, delta, sums, start, ROW_STRIDES,
            num_rows, num_keys, scale, ROWS, TAIL_ROWS, KEYS, SIZE, UPCAST,
        )  # fmt: skip
        tl.debug_barrier()  # the next tile of keys reads the sums that other threads wrote
    if TAIL_KEYS:
        for start in tl.range(whole, num_keys, TAIL_KEYS, disable_licm=True):  # once or twice
            last_keys(
                q, k, v, grad_out, grad_k, grad_v, log_total, delta, sums, start, ROW_STRIDES,
                num_rows, num_keys, scale, ROWS, TAIL_KEYS, SIZE, UPCAST,
            )  # fmt: skip
            tl.debug_barrier()
    for start in range(0, num_rows, ROWS):
        grad_query = load_rows(sums, start, SIZE, num_rows, ROWS, SIZE, True) * scale
        store_rows(grad_q, start, ROW_STRIDES[5], num_rows, grad_query, ROWS, SIZE, True)
