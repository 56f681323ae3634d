"""The kernels of ``frame_pointnet`` in Triton: both layers on the tensor cores, the maximum over the points taken before anything
is written.

The frame's rotation and origin are folded into w1 and b1, so that the first layer is one product [points, x y z 1] x [4, D1].
Its factors are sums of bfloat16 parts, two each where the weights have two bytes and three each in float32 (:func:`part`), and
the products of the parts that count stand side by side in one short product: points as [x y z 1 in parts], prepared once an
image for all frames, and the folded weights likewise. In float32 the second layer is a sum of six products of parts as well: as
much work for the tensor cores as three in tf32, but the first layer's result is its operand without leaving the registers.

UPCAST: the interpreter's bfloat16 arithmetic is wrong, so there everything stays in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

PER_UNIT = tl.constexpr(10.0)  # 1 / 0.1 m: the scale of the local coordinates that the MLP reads


@triton.jit
def fold(rotation, w1, unit, in_units):
    """The columns of w1 R^T / 0.1 m: three blocks over the hidden units."""
    wx = tl.load(w1 + 3 * unit, mask=in_units, other=0.0).to(tl.float32)
    wy = tl.load(w1 + 3 * unit + 1, mask=in_units, other=0.0).to(tl.float32)
    wz = tl.load(w1 + 3 * unit + 2, mask=in_units, other=0.0).to(tl.float32)
    x = (tl.load(rotation) * wx + tl.load(rotation + 1) * wy + tl.load(rotation + 2) * wz) * PER_UNIT
    y = (tl.load(rotation + 3) * wx + tl.load(rotation + 4) * wy + tl.load(rotation + 5) * wz) * PER_UNIT
    z = (tl.load(rotation + 6) * wx + tl.load(rotation + 7) * wy + tl.load(rotation + 8) * wz) * PER_UNIT
    return x, y, z


@triton.jit
def hidden_units(x, y, z, ax, ay, az, bias):
    h = x[:, None] * ax[None, :] + (y[:, None] * ay[None, :] + (z[:, None] * az[None, :] + bias[None, :]))
    return tl.where(h <= 0.0, 0.0, h)  # NaN stays


@triton.jit
def load_offsets(points, axis_stride, origin, at, mask):
    x = tl.load(points + at, mask=mask, other=0.0) - tl.load(origin)
    y = tl.load(points + at + axis_stride, mask=mask, other=0.0) - tl.load(origin + 1)
    z = tl.load(points + at + 2 * axis_stride, mask=mask, other=0.0) - tl.load(origin + 2)
    return x, y, z


@triton.jit
def finite_or_zero(value):
    return tl.where(tl.abs(value) < float("inf"), value, 0.0)  # NaN compares as False


@triton.jit
def base_of(origins):
    """The point from which an image's points are measured: its first origin, or 0 where that is not finite."""
    return finite_or_zero(tl.load(origins)), finite_or_zero(tl.load(origins + 1)), finite_or_zero(tl.load(origins + 2))


@triton.jit
def high_part(value):
    """The upper 16 bits of a float32 number: a bfloat16 number, in float32. Cut off, not rounded: one instruction."""
    return (value.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def part(value, i):
    """The i-th bfloat16 part of a float32 number, in float32: value = part 0 + part 1 + part 2, all 24 bits."""
    high = high_part(value)
    middle = high_part(value - high)
    return tl.where(i == 0, high, tl.where(i == 1, middle, high_part(value - high - middle)))


@triton.jit
def column_meaning(k, PARTS: tl.constexpr):
    """Column k of the first product: its coordinate (3: the constant 1, 4: none), and which part of either factor it takes.

    With two parts the columns of a coordinate are hh lh hl, with three hh hm mh hl lh mm (point's part, weight's part); the
    constant is exact in one part and meets all parts of the bias.
    """
    if PARTS == 2:
        coordinate = tl.minimum(k // 3, 3)
        q = k % 3
        point_part = tl.where(q == 1, 1, 0)
        weight_part = tl.where(q == 2, 1, 0)
        constant = k - 9
    else:
        coordinate = tl.minimum(k // 6, 3)
        q = k % 6
        point_part = tl.where((q == 2) | (q == 5), 1, tl.where(q == 4, 2, 0))
        weight_part = tl.where((q == 1) | (q == 5), 1, tl.where(q == 3, 2, 0))
        constant = k - 18
    point_part = tl.where(coordinate == 3, 0, point_part)
    weight_part = tl.where(coordinate == 3, constant, weight_part)
    return tl.where(constant < PARTS, coordinate, 4), point_part, weight_part


@triton.jit
def prepare_kernel(
    points,
    image_stride,
    point_stride,
    axis_stride,
    mask,  # bool [B, N], contiguous; not read unless HAS_MASK
    origins,  # [B, F, 3]
    prepared,  # bfloat16 [B, ROWS, COLUMNS], out: each point in parts, relative to base_of(origins)
    valid_point,  # int32 [B], out: the first point that counts, N if there is none
    nan_of_points,  # float32 [B], out: NaN if a point that counts is not finite, else 0
    num_points,
    num_frames,
    ROWS: tl.constexpr,  # N rounded up to whole blocks
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """What does not count, and what rounds N up, becomes the first point that does: it changes no maximum."""
    image = tl.program_id(0).to(tl.int64)
    points += image * image_stride
    found = tl.full([BLOCK], 2147483647, tl.int32)
    not_finite = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_points, BLOCK):
        n = start + tl.arange(0, BLOCK)
        valid = n < num_points
        if HAS_MASK:
            valid = valid & (tl.load(mask + image * num_points + n, mask=valid, other=0) != 0)
        at = points + n.to(tl.int64) * point_stride
        x = tl.load(at, mask=valid, other=0.0)
        y = tl.load(at + axis_stride, mask=valid, other=0.0)
        z = tl.load(at + 2 * axis_stride, mask=valid, other=0.0)
        not_finite += x * 0.0 + y * 0.0 + z * 0.0  # not of their sum, which may overflow
        found = tl.minimum(found, tl.where(valid, n, 2147483647))
    first = tl.minimum(tl.min(found, axis=0), num_points)
    tl.store(valid_point + image, first)
    tl.store(nan_of_points + image, tl.sum(not_finite, axis=0))

    base_x, base_y, base_z = base_of(origins + image * num_frames * 3)
    coordinate, point_part, _ = column_meaning(tl.arange(0, COLUMNS), PARTS)
    for start in range(0, ROWS, BLOCK):
        n = start + tl.arange(0, BLOCK)
        valid = n < num_points
        if HAS_MASK:
            valid = valid & (tl.load(mask + image * num_points + n, mask=valid, other=0) != 0)
        source = tl.where(valid, n, first)
        there = source < num_points
        at = points + source.to(tl.int64) * point_stride
        x = tl.load(at, mask=there, other=0.0) - base_x
        y = tl.load(at + axis_stride, mask=there, other=0.0) - base_y
        z = tl.load(at + 2 * axis_stride, mask=there, other=0.0) - base_z
        c = coordinate[None, :]
        value = tl.where(c == 0, x[:, None], tl.where(c == 1, y[:, None], tl.where(c == 2, z[:, None], 1.0)))
        value = tl.where(c < 4, part(value, point_part[None, :]), 0.0)
        at = prepared + (image * ROWS + n)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        tl.store(at, value.to(tl.bfloat16))


@triton.jit
def forward_kernel(
    prepared,  # bfloat16 [B, ROWS, COLUMNS]
    valid_point,  # int32 [B]
    nan_of_points,  # float32 [B]
    mask,  # bool [B, N], contiguous; not read unless HAS_MASK
    origins,  # [B, F, 3]
    rotations,  # [B, F, 3, 3]
    w1,  # [D1, 3]
    b1,  # [F, D1]
    w2,  # [D2, D1]
    b2,  # [D2]
    features,  # [B, F, D2]
    winners,  # int32 [B, F, D2], not written unless WINNERS
    num_points,
    num_frames,
    D1: tl.constexpr,
    D2: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,  # 3: float32 by bfloat16 parts
    PADDED_D1: tl.constexpr,
    BLOCK_D2: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WINNERS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    image = pair // num_frames
    frame = pair % num_frames
    feature = tl.program_id(1) * BLOCK_D2 + tl.arange(0, BLOCK_D2)
    unit = tl.arange(0, PADDED_D1)
    in_units, in_features = unit < D1, feature < D2
    ax, ay, az = fold(rotations + pair * 9, w1, unit, in_units)
    bias = tl.load(b1 + frame * D1 + unit, mask=in_units, other=0.0).to(tl.float32)
    base_x, base_y, base_z = base_of(origins + image * num_frames * 3)
    origin = origins + pair * 3
    bias -= ax * (tl.load(origin) - base_x)
    bias -= ay * (tl.load(origin + 1) - base_y)
    bias -= az * (tl.load(origin + 2) - base_z)
    coordinate, _, weight_part = column_meaning(tl.arange(0, COLUMNS), PARTS)
    c = coordinate[:, None]
    folded = tl.where(c == 0, ax[None, :], tl.where(c == 1, ay[None, :], tl.where(c == 2, az[None, :], bias[None, :])))
    folded = tl.where(c < 4, part(folded, weight_part[:, None]), 0.0)
    weights = tl.load(
        w2 + feature[None, :] * D1 + unit[:, None], mask=in_units[:, None] & in_features[None, :], other=0.0
    )
    # NaN never wins a maximum: what would become NaN is found in the inputs
    not_finite = tl.sum(ax * 0.0 + ay * 0.0 + az * 0.0 + bias * 0.0, axis=0)
    not_finite += tl.sum(weights.to(tl.float32) * 0.0, axis=0) + tl.load(nan_of_points + image)
    if PARTS == 3:
        high, middle, low = part(weights, 0), part(weights, 1), part(weights, 2)
        if not UPCAST:
            high, middle, low = high.to(tl.bfloat16), middle.to(tl.bfloat16), low.to(tl.bfloat16)
    elif UPCAST:
        weights = weights.to(tl.float32)
    if not UPCAST:
        folded = folded.to(tl.bfloat16)

    # Maxima stay where the product leaves them, one for every row of a block: the rows are compared once, at the end.
    best = tl.full([BLOCK_POINTS, BLOCK_D2], float("-inf"), tl.float32)
    block_of_best = tl.full([BLOCK_POINTS, BLOCK_D2], 0, tl.int32)
    row = tl.arange(0, BLOCK_POINTS)
    at = prepared + (image * ROWS + row)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    for start in range(0, ROWS, BLOCK_POINTS):
        local = tl.load(at + start * COLUMNS)
        if UPCAST:
            local = local.to(tl.float32)
        hidden = tl.maximum(tl.dot(local, folded, input_precision="ieee"), 0.0)
        if PARTS == 3:
            h, m, l = part(hidden, 0), part(hidden, 1), part(hidden, 2)
            if not UPCAST:
                h, m, l = h.to(tl.bfloat16), m.to(tl.bfloat16), l.to(tl.bfloat16)
            out = tl.dot(l, high, input_precision="ieee")
            out = tl.dot(h, low, out, input_precision="ieee")
            out = tl.dot(m, middle, out, input_precision="ieee")
            out = tl.dot(m, high, out, input_precision="ieee")
            out = tl.dot(h, middle, out, input_precision="ieee")
            out = tl.dot(h, high, out, input_precision="ieee")
        elif UPCAST:
            out = tl.dot(hidden, weights, input_precision="ieee")
        else:
            out = tl.dot(hidden.to(weights.dtype), weights)
        if WINNERS:
            better = out > best
            block_of_best = tl.where(better, start, block_of_best)
        best = tl.maximum(best, out)

    most = tl.max(best, axis=0)
    value = most + tl.load(b2 + feature, mask=in_features, other=0.0).to(tl.float32) + not_finite
    first = tl.load(valid_point + image)
    at_feature = pair * D2 + feature
    tl.store(features + at_feature, tl.where(first < num_points, value, 0.0), mask=in_features)
    if WINNERS:
        index = block_of_best + row[:, None]
        winner = tl.min(tl.where(best == most[None, :], index, 2147483647), axis=0)
        counts = winner < num_points
        if HAS_MASK:
            counts = counts & (tl.load(mask + image * num_points + winner, mask=counts, other=0) != 0)
        winner = tl.where(
            counts, winner, first
        )  # what stood in for a point that does not count was the first that does
        winner = tl.where((first < num_points) & (most > float("-inf")), winner, -1)
        tl.store(winners + at_feature, winner, mask=in_features)


@triton.jit
def backward_kernel(
    grad_features,  # [B, F, D2]
    winners,  # int32 [B, F, D2]
    points,
    image_stride,
    point_stride,
    axis_stride,
    origins,
    rotations,
    w1,
    b1,
    w2,
    grad_winning,  # bfloat16 [B, F * D2, 16], out: gradient of the point that won, 3 parts each of x y z
    grad_origins,  # [D2 blocks, B, F, 3]
    grad_rotations,  # [D2 blocks, B, F, 3, 3]
    grad_w1,  # [D2 blocks, B, D1, 3]
    grad_b1,  # [D2 blocks, B, F, D1]
    grad_w2,  # [B, D2, D1]
    grad_b2,  # [B, D2]
    batch,
    num_frames,
    D1: tl.constexpr,
    D2: tl.constexpr,
    PADDED_D1: tl.constexpr,
    BLOCK_D2: tl.constexpr,
):
    """One image and block of features: every frame's winning points, and this image's own sums of the weights' gradients."""
    image = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    feature = tl.program_id(1) * BLOCK_D2 + tl.arange(0, BLOCK_D2)
    unit = tl.arange(0, PADDED_D1)
    in_units, in_features = unit < D1, feature < D2
    in_weights = in_features[:, None] & in_units[None, :]
    at_weights = feature[:, None] * D1 + unit[None, :]
    weights = tl.load(w2 + at_weights, mask=in_weights, other=0.0).to(tl.float32)
    wx = tl.load(w1 + 3 * unit, mask=in_units, other=0.0).to(tl.float32)
    wy = tl.load(w1 + 3 * unit + 1, mask=in_units, other=0.0).to(tl.float32)
    wz = tl.load(w1 + 3 * unit + 2, mask=in_units, other=0.0).to(tl.float32)
    grad_weights = tl.zeros([BLOCK_D2, PADDED_D1], tl.float32)
    grad_wx = tl.zeros([PADDED_D1], tl.float32)
    grad_wy = tl.zeros([PADDED_D1], tl.float32)
    grad_wz = tl.zeros([PADDED_D1], tl.float32)
    grad_bias = tl.zeros([BLOCK_D2], tl.float32)
    points += image * image_stride
    for frame in range(0, num_frames):
        pair = image * num_frames + frame
        mine = block * batch * num_frames + pair
        r = rotations + pair * 9
        ax, ay, az = fold(r, w1, unit, in_units)
        bias = tl.load(b1 + frame * D1 + unit, mask=in_units, other=0.0).to(tl.float32)
        winner = tl.load(winners + pair * D2 + feature, mask=in_features, other=-1)
        won = winner >= 0
        grad = tl.load(grad_features + pair * D2 + feature, mask=won, other=0.0)
        x, y, z = load_offsets(points, axis_stride, origins + pair * 3, winner.to(tl.int64) * point_stride, won)
        h = hidden_units(x, y, z, ax, ay, az, bias)
        grad_bias += grad
        grad_weights += tl.where(won[:, None], grad[:, None] * h, 0.0)
        grad_hidden = tl.where((h == 0.0) | (won[:, None] == 0), 0.0, grad[:, None] * weights)

        grad_x = tl.sum(grad_hidden * ax[None, :], axis=1)
        grad_y = tl.sum(grad_hidden * ay[None, :], axis=1)
        grad_z = tl.sum(grad_hidden * az[None, :], axis=1)
        out = grad_winning + (pair * D2 + feature) * 16
        store_parts(out, grad_x, in_features)
        store_parts(out + 3, grad_y, in_features)
        store_parts(out + 6, grad_z, in_features)
        tl.store(grad_origins + mine * 3, -tl.sum(grad_x, axis=0))
        tl.store(grad_origins + mine * 3 + 1, -tl.sum(grad_y, axis=0))
        tl.store(grad_origins + mine * 3 + 2, -tl.sum(grad_z, axis=0))

        tl.store(grad_b1 + mine * D1 + unit, tl.sum(grad_hidden, axis=0), mask=in_units)
        grad_ax = tl.sum(grad_hidden * x[:, None], axis=0) * PER_UNIT
        grad_ay = tl.sum(grad_hidden * y[:, None], axis=0) * PER_UNIT
        grad_az = tl.sum(grad_hidden * z[:, None], axis=0) * PER_UNIT
        grad_wx += grad_ax * tl.load(r) + grad_ay * tl.load(r + 3) + grad_az * tl.load(r + 6)
        grad_wy += grad_ax * tl.load(r + 1) + grad_ay * tl.load(r + 4) + grad_az * tl.load(r + 7)
        grad_wz += grad_ax * tl.load(r + 2) + grad_ay * tl.load(r + 5) + grad_az * tl.load(r + 8)
        at_rotation = grad_rotations + mine * 9
        store_products(at_rotation, grad_ax, wx, wy, wz)
        store_products(at_rotation + 3, grad_ay, wx, wy, wz)
        store_products(at_rotation + 6, grad_az, wx, wy, wz)

    tl.store(grad_w2 + image * D2 * D1 + at_weights, grad_weights, mask=in_weights)
    tl.store(grad_b2 + image * D2 + feature, grad_bias, mask=in_features)
    at_w1 = grad_w1 + ((block * batch + image) * D1 + unit) * 3
    tl.store(at_w1, grad_wx, mask=in_units)
    tl.store(at_w1 + 1, grad_wy, mask=in_units)
    tl.store(at_w1 + 2, grad_wz, mask=in_units)


@triton.jit
def store_parts(at, value, mask):
    for i in tl.static_range(3):
        tl.store(at + i, part(value, i).to(tl.bfloat16), mask=mask)


@triton.jit
def store_products(at, gradient, wx, wy, wz):
    tl.store(at, tl.sum(gradient * wx, axis=0))
    tl.store(at + 1, tl.sum(gradient * wy, axis=0))
    tl.store(at + 2, tl.sum(gradient * wz, axis=0))


@triton.jit
def point_gradient_kernel(
    winners,  # int32 [B, ENTRIES]
    grad_winning,  # bfloat16 [B, ENTRIES, 16]
    grad_points,  # [B, N, 3]
    entries,  # F * D2
    num_points,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_ENTRIES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Each point collects what it won, as a product [points, entries] x [entries, parts] of zeros and ones with exact parts: no
    atomics, the same bits every time."""
    image = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    column = tl.arange(0, 16)
    acc = tl.zeros([BLOCK_POINTS, 16], tl.float32)
    for start in range(0, entries, BLOCK_ENTRIES):
        entry = start + tl.arange(0, BLOCK_ENTRIES)
        inside = entry < entries
        at = image * entries + entry
        winner = tl.load(winners + at, mask=inside, other=-1)
        there = inside[:, None] & (column < 9)[None, :]
        gradient = tl.load(grad_winning + at[:, None] * 16 + column[None, :], mask=there, other=0.0)
        hit = tl.where(winner[None, :] == n[:, None], 1.0, 0.0)
        if UPCAST:
            acc = tl.dot(hit, gradient.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(hit.to(tl.bfloat16), gradient, acc)
    out = grad_points + (image * num_points + n) * 3
    inside = n < num_points
    tl.store(out, tl.sum(tl.where(column[None, :] < 3, acc, 0.0), axis=1), mask=inside)
    tl.store(out + 1, tl.sum(tl.where((column[None, :] >= 3) & (column[None, :] < 6), acc, 0.0), axis=1), mask=inside)
    tl.store(out + 2, tl.sum(tl.where(column[None, :] >= 6, acc, 0.0), axis=1), mask=inside)
