"""``attention`` forward in Triton, for the sequence lengths of a ViT.

Tokens that do not fill a tile cost a whole tile: 257 tokens in tiles of 128 x 64 would do the work of 384 x 320. So the rows
and the keys that are left over after the whole tiles get a tile of their own, as small as the tensor cores take (16). The
order of the keys does not matter to a softmax, so it is the last tokens that are set apart, whatever they mean.

A program walks the row tiles of one head; the rows left over have a program of their own. Softmax runs in base 2: scores are
multiplied by scale * log2(e).
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.attention.triton_kernels.tiles import dot, head_of, load_rows, store_rows


@triton.jit
def absorb_keys(
    q,  # [ROWS, SIZE]
    k,
    v,
    first,  # key of the tile
    key_stride: tl.constexpr,
    value_stride: tl.constexpr,
    num_keys,
    scale,  # times log2(e)
    largest,  # [ROWS] running maximum of the scores
    total,  # [ROWS] running sum of the weights
    acc,  # [ROWS, SIZE] running sum of weights times values
    KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    MASKED: tl.constexpr,
    POSITIVE: tl.constexpr,  # scale > 0: the maximum may be taken before the factor
    UPCAST: tl.constexpr,
):
    """One tile of keys and values into the running softmax (Milakov and Gimelshein, 2018)."""
    key = load_rows(k, first, key_stride, num_keys, KEYS, SIZE, MASKED)
    scores = dot(q, tl.trans(key), tl.zeros([q.shape[0], KEYS], tl.float32), UPCAST)
    if not POSITIVE:
        scores *= scale
    if MASKED:
        scores = tl.where((first + tl.arange(0, KEYS) < num_keys)[None, :], scores, float("-inf"))
    peak = tl.max(scores, 1)
    if POSITIVE:
        peak *= scale
    new_largest = tl.maximum(largest, peak)
    # while every score of a row is -inf: -inf - (-inf) would be NaN
    shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    if POSITIVE:
        weights = tl.exp2(scores * scale - shift[:, None])
    else:
        weights = tl.exp2(scores - shift[:, None])
    correction = tl.exp2(largest - shift)
    total = total * correction + tl.sum(weights, 1)
    value = load_rows(v, first, value_stride, num_keys, KEYS, SIZE, MASKED)
    acc = dot(weights.to(value.dtype), value, acc * correction[:, None], UPCAST)
    return new_largest, total, acc


@triton.jit
def attend_rows(
    q,
    k,
    v,
    out,
    log_total,  # of this head; read only where SAVE
    first,  # row of the tile
    query_stride: tl.constexpr,
    key_stride: tl.constexpr,
    value_stride: tl.constexpr,
    out_stride: tl.constexpr,
    num_rows,
    num_keys,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    TAIL_KEYS: tl.constexpr,  # size of the last tile of keys; 0: none are left over
    SIZE: tl.constexpr,
    MASKED: tl.constexpr,
    POSITIVE: tl.constexpr,
    SAVE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Attention of one tile of rows to all keys."""
    query = load_rows(q, first, query_stride, num_rows, ROWS, SIZE, MASKED)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, SIZE], tl.float32)
    whole = num_keys // KEYS * KEYS
    for start in range(0, whole, KEYS):
        largest, total, acc = absorb_keys(
            query, k, v, start, key_stride, value_stride, num_keys, scale, largest, total, acc,
            KEYS, SIZE, False, POSITIVE, UPCAST,
        )  # fmt: skip
    if TAIL_KEYS:
        largest, total, acc = absorb_keys(
            query, k, v, whole, key_stride, value_stride, num_keys, scale, largest, total, acc,
            TAIL_KEYS, SIZE, True, POSITIVE, UPCAST,
        )  # fmt: skip
    store_rows(out, first, out_stride, num_rows, acc / total[:, None], ROWS, SIZE, MASKED)
    if SAVE:
        row = first + tl.arange(0, ROWS)
        tl.store(log_total + row, largest + tl.log2(total), mask=row < num_rows)


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    out,
    log_totals,  # [B, H, N] float32, base 2: the maximum and the logarithm of the sum; unused unless SAVE
    query_strides,
    key_strides,
    value_strides,
    out_strides,
    heads,
    num_rows,
    num_keys,
    scale,
    splits,  # programs that share the whole row tiles of a head
    ROW_STRIDES: tl.constexpr,  # of q, k, v, out: constants, because addresses of a tile then need few registers
    ROWS: tl.constexpr,
    TAIL_ROWS: tl.constexpr,  # size of the last row tile; 0: no rows are left over
    KEYS: tl.constexpr,
    TAIL_KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    POSITIVE: tl.constexpr,
    SAVE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    index, split = tl.program_id(0), tl.program_id(1)
    batch, head = index // heads, index % heads
    q = head_of(q, query_strides, batch, head)
    k = head_of(k, key_strides, batch, head)
    v = head_of(v, value_strides, batch, head)
    out = head_of(out, out_strides, batch, head)
    log_total = log_totals + index.to(tl.int64) * num_rows
    tiles = num_rows // ROWS
    if split < splits:
        for tile in tl.range(split, tiles, splits, disable_licm=True):
            attend_rows(
                q, k, v, out, log_total, tile * ROWS, ROW_STRIDES[0], ROW_STRIDES[1], ROW_STRIDES[2], ROW_STRIDES[3],
                num_rows, num_keys, scale, ROWS, KEYS, TAIL_KEYS, SIZE, False, POSITIVE, SAVE, UPCAST,
            )  # fmt: skip
    elif TAIL_ROWS:
        attend_rows(
            q, k, v, out, log_total, tiles * ROWS, ROW_STRIDES[0], ROW_STRIDES[1], ROW_STRIDES[2], ROW_STRIDES[3],
            num_rows, num_keys, scale, TAIL_ROWS, KEYS, TAIL_KEYS, SIZE, True, POSITIVE, SAVE, UPCAST,
        )  # fmt: skip
