"""``attention`` forward with e4m3 products in Triton: one kernel quantises, one attends. ``fp8.emulate`` has the same numbers.

prepare_kernel   Q and K rotated by a Hadamard matrix, K without its mean over the tokens, one scale a token; V transposed, one
                 scale a channel. Hopper multiplies e4m3 only where both operands are contiguous along the summed axis.
fp8_kernel       scores, softmax in float32, weights times 448 in e4m3, and values; sums go to float32 every 128 keys, because
                 the accumulator of an e4m3 product keeps 13 fraction bits
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.attention.triton_kernels.tiles import head_of, load_rows, load_vector, store_rows

# The largest e4m3 number; its logarithm is added to the exponents, so that the largest weight of a row becomes it.
LARGEST = tl.constexpr(448.0)
LOG2_LARGEST = tl.constexpr(8.807354922057604)
TINY = tl.constexpr(1.1754943508222875e-38)  # smallest normal float32


@triton.jit
def to_e4m3(x, UPCAST: tl.constexpr):
    """Rounds to the nearest e4m3 number, saturating. The interpreter's cast truncates: there the rounding is done before it."""
    x = tl.clamp(x, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    if UPCAST:
        bits = x.to(tl.int32, bitcast=True)
        even = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000  # three fraction bits
        normal = even.to(tl.float32, bitcast=True)
        subnormal = (x + 24576.0) - 24576.0  # multiples of 2^-9
        x = tl.where(tl.abs(x) < 0.015625, subnormal, tl.where(x == x, normal, x))
    return x.to(tl.float8e4nv)


@triton.jit
def dot_e4m3(a, b, acc, UPCAST: tl.constexpr):
    """acc + a b, where a b has 13 fraction bits and is added to ``acc`` in float32. At most 128 products a sum."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, max_num_imprecise_acc=a.shape[1])


@triton.jit
def hadamard(SIZE: tl.constexpr):
    """Entries of +-1: minus where the numbers of row and column share an odd number of bits. Times its transpose: SIZE."""
    row, column = tl.arange(0, SIZE), tl.arange(0, SIZE)
    bits = row[:, None] & column[None, :]
    bits ^= bits >> 4
    bits ^= bits >> 2
    bits ^= bits >> 1
    return 1.0 - 2.0 * (bits & 1).to(tl.float32)


@triton.jit
def scale_of(largest):
    scale = largest / LARGEST
    return tl.where(scale < TINY, 1.0, scale)


@triton.jit
def quantize_rows(
    x, stride: tl.constexpr, mean, values, scales, num_rows, padded, TILE: tl.constexpr, SIZE: tl.constexpr, UPCAST: tl.constexpr
):  # fmt: skip
    """Rotates rows less ``mean`` [SIZE] and writes e4m3 values [padded, SIZE] and scales [padded]."""
    matrix = hadamard(SIZE)
    rotated_mean = tl.sum(mean[:, None] * matrix, 0)
    for start in range(0, padded, TILE):
        tile = load_rows(x, start, stride, num_rows, TILE, SIZE, True)
        if UPCAST:
            rotated = tl.dot(tile.to(tl.float32), matrix, input_precision="ieee")
        else:
            rotated = tl.dot(tile, matrix.to(tile.dtype))  # +-1 is exact in 16 bits
        there = start + tl.arange(0, TILE) < num_rows
        rotated = tl.where(there[:, None], (rotated - rotated_mean[None, :]) * (1.0 / SIZE**0.5), 0.0)
        scale = scale_of(tl.max(tl.abs(rotated), 1))
        store_rows(values, start, SIZE, padded, to_e4m3(rotated / scale[:, None], UPCAST), TILE, SIZE, True)
        row = start + tl.arange(0, TILE)
        tl.store(scales + row, scale, mask=row < padded)


@triton.jit
def prepare_kernel(
    q,
    k,
    v,
    q8,  # [B H, N padded, SIZE]
    k8,  # [B H, M padded, SIZE]
    v8,  # [B H, SIZE, M padded]
    q_scales,  # [B H, N padded] float32
    k_scales,  # [B H, M padded]
    v_scales,  # [B H, SIZE]
    query_strides,
    key_strides,
    value_strides,
    heads,
    num_rows,
    num_keys,
    padded_rows,
    padded_keys,
    ROW_STRIDES: tl.constexpr,  # of q, k, v
    TILE: tl.constexpr,
    SIZE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (head, 0) quantises Q, (head, 1) K, (head, 2) V."""
    index, which = tl.program_id(0), tl.program_id(1)
    batch, head = index // heads, index % heads
    wide = index.to(tl.int64)
    channel = tl.arange(0, SIZE)
    if which == 0:
        x = head_of(q, query_strides, batch, head)
        zeros = tl.zeros([SIZE], tl.float32)
        quantize_rows(
            x, ROW_STRIDES[0], zeros, q8 + wide * padded_rows * SIZE, q_scales + wide * padded_rows,
            num_rows, padded_rows, TILE, SIZE, UPCAST,
        )  # fmt: skip
    elif which == 1:
        x = head_of(k, key_strides, batch, head)
        total = tl.zeros([SIZE], tl.float32)
        for start in range(0, num_keys, TILE):
            total += tl.sum(load_rows(x, start, ROW_STRIDES[1], num_keys, TILE, SIZE, True).to(tl.float32), 0)
        quantize_rows(
            x, ROW_STRIDES[1], total / num_keys, k8 + wide * padded_keys * SIZE, k_scales + wide * padded_keys,
            num_keys, padded_keys, TILE, SIZE, UPCAST,
        )  # fmt: skip
    else:
        x = head_of(v, value_strides, batch, head)
        largest = tl.zeros([SIZE], tl.float32)
        for start in range(0, num_keys, TILE):
            tile = load_rows(x, start, ROW_STRIDES[2], num_keys, TILE, SIZE, True).to(tl.float32)
            largest = tl.maximum(largest, tl.max(tl.abs(tile), 0))
        scale = scale_of(largest)
        tl.store(v_scales + wide * SIZE + channel, scale)
        out = v8 + wide * SIZE * padded_keys
        for start in range(0, padded_keys, TILE):
            tile = load_rows(x, start, ROW_STRIDES[2], num_keys, TILE, SIZE, True).to(tl.float32)
            key = start + tl.arange(0, TILE)
            address = out + channel[:, None] * padded_keys + key[None, :]
            tl.store(address, tl.trans(to_e4m3(tile / scale[None, :], UPCAST)), mask=(key < padded_keys)[None, :])


@triton.jit
def fp8_kernel(
    q8,
    k8,
    v8,
    q_scales,
    k_scales,
    v_scales,
    out,
    out_strides,
    heads,
    num_rows,
    num_keys,
    padded_rows,
    padded_keys,
    scale,  # times log2(e)
    OUT_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program attends ROWS rows of one head to all keys. What lies beyond the last row or key is padded: no load is masked."""
    index, tile = tl.program_id(0), tl.program_id(1)
    wide = index.to(tl.int64)
    first = tile * ROWS
    q8 += wide * padded_rows * SIZE
    k8 += wide * padded_keys * SIZE
    v8 += wide * padded_keys * SIZE
    k_scales += wide * padded_keys
    query = load_rows(q8, first, SIZE, padded_rows, ROWS, SIZE, False)
    row_scale = load_vector(q_scales + wide * padded_rows, first, padded_rows, ROWS, False) * scale
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, SIZE], tl.float32)
    key, channel = tl.arange(0, KEYS), tl.arange(0, SIZE)
    for start in tl.range(0, padded_keys, KEYS, disable_licm=True):
        keys = load_rows(k8, start, SIZE, padded_keys, KEYS, SIZE, False)
        key_scale = load_vector(k_scales, start, padded_keys, KEYS, False)
        scores = dot_e4m3(query, tl.trans(keys), tl.zeros([ROWS, KEYS], tl.float32), UPCAST)
        scores = scores * row_scale[:, None] * key_scale[None, :]
        scores = tl.where((start + key < num_keys)[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(scores - (shift - LOG2_LARGEST)[:, None])
        correction = tl.exp2(largest - shift)
        total = total * correction + tl.sum(weights, 1)
        values = tl.load(v8 + channel[:, None] * padded_keys + (start + key)[None, :])
        acc = dot_e4m3(to_e4m3(weights, UPCAST), tl.trans(values), acc * correction[:, None], UPCAST)
        largest = new_largest
    value_scale = tl.load(v_scales + wide * SIZE + channel)
    out = head_of(out, out_strides, index // heads, index % heads)
    store_rows(out, first, OUT_STRIDE, num_rows, acc * value_scale[None, :] / total[:, None], ROWS, SIZE, True)
