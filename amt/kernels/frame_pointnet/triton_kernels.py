"""The kernels of ``frame_pointnet`` in Triton. The frame's rotation is folded into w1, so that a point costs three multiply-adds
a hidden unit, and the second layer is one product [points, D1] x [D1, D2] on the tensor cores whose maximum over the points is
taken before anything is written.

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
def forward_kernel(
    points,
    image_stride,
    point_stride,
    axis_stride,
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
    weights = tl.load(
        w2 + feature[None, :] * D1 + unit[:, None], mask=in_units[:, None] & in_features[None, :], other=0.0
    )
    if UPCAST:
        weights = weights.to(tl.float32)

    points += image * image_stride
    # Maxima stay where the product leaves them, one for every row of a block: the rows are compared once, at the end.
    best = tl.full([BLOCK_POINTS, BLOCK_D2], float("-inf"), tl.float32)
    block_of_best = tl.full([BLOCK_POINTS, BLOCK_D2], -1, tl.int32)
    row = tl.arange(0, BLOCK_POINTS)
    # NaN never wins a maximum: what would become NaN is found in the inputs
    poison = tl.zeros([BLOCK_POINTS], tl.float32)
    any_valid = row < num_points
    if HAS_MASK:
        any_valid = row < 0
    for start in range(0, num_points, BLOCK_POINTS):
        n = tl.minimum(start + row, num_points - 1)  # the last point again changes no maximum
        valid = n >= 0
        if HAS_MASK:
            valid = tl.load(mask + image * num_points + n) != 0
            any_valid = any_valid | valid
        x, y, z = load_offsets(points, axis_stride, origins + pair * 3, n.to(tl.int64) * point_stride, valid)
        poison += tl.where(valid, (x + y + z) * 0.0, 0.0)
        h = hidden_units(x, y, z, ax, ay, az, bias)
        if UPCAST:
            out = tl.dot(h, weights, input_precision="ieee")
        elif weights.dtype == tl.float32:
            out = tl.dot(h, weights, input_precision="tf32x3")
        else:
            out = tl.dot(h.to(weights.dtype), weights)
        if HAS_MASK:
            out = tl.where(valid[:, None], out, float("-inf"))
        if WINNERS:
            better = out > best
            block_of_best = tl.where(better, start, block_of_best)
            best = tl.where(better, out, best)
        else:
            best = tl.maximum(best, out)

    most = tl.max(best, axis=0)
    spoiled = tl.sum(poison, axis=0) + tl.sum((ax + ay + az + bias) * 0.0, axis=0)
    spoiled += tl.sum(weights.to(tl.float32) * 0.0, axis=0)
    value = most + tl.load(b2 + feature, mask=in_features, other=0.0).to(tl.float32) + spoiled
    at = pair * D2 + feature
    counts = tl.max(any_valid.to(tl.int32), axis=0) > 0
    tl.store(features + at, tl.where(counts, value, 0.0), mask=in_features)
    if WINNERS:
        index = tl.minimum(block_of_best + row[:, None], num_points - 1)
        wins = (best == most[None, :]) & (block_of_best >= 0)
        first = tl.min(tl.where(wins, index, 2147483647), axis=0)
        tl.store(winners + at, tl.where(first < num_points, first, -1), mask=in_features)


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
    grad_winning,  # [B, F * D2, 3]: the gradient of the point that won each feature
    grad_origins,  # [D2 blocks, B, F, 3]
    grad_rotations,  # [D2 blocks, B, F, 3, 3]
    grad_w1,  # [D2 blocks, B, D1, 3]
    grad_b1,  # [D2 blocks, B, F, D1]
    grad_w2,  # [B, D2, D1]
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
    to_weights = tl.zeros([BLOCK_D2, PADDED_D1], tl.float32)
    to_wx = tl.zeros([PADDED_D1], tl.float32)
    to_wy = tl.zeros([PADDED_D1], tl.float32)
    to_wz = tl.zeros([PADDED_D1], tl.float32)
    points += image * image_stride
    for frame in range(0, num_frames):
        pair = image * num_frames + frame
        mine = block * batch * num_frames + pair
        r = rotations + pair * 9
        ax, ay, az = fold(r, w1, unit, in_units)
        bias = tl.load(b1 + frame * D1 + unit, mask=in_units, other=0.0).to(tl.float32)
        winner = tl.load(winners + pair * D2 + feature, mask=in_features, other=-1)
        won = winner >= 0
        g = tl.load(grad_features + pair * D2 + feature, mask=won, other=0.0)
        x, y, z = load_offsets(points, axis_stride, origins + pair * 3, winner.to(tl.int64) * point_stride, won)
        h = hidden_units(x, y, z, ax, ay, az, bias)
        to_weights += tl.where(won[:, None], g[:, None] * h, 0.0)
        to_units = tl.where((h == 0.0) | (won[:, None] == 0), 0.0, g[:, None] * weights)

        gx = tl.sum(to_units * ax[None, :], axis=1)
        gy = tl.sum(to_units * ay[None, :], axis=1)
        gz = tl.sum(to_units * az[None, :], axis=1)
        out = grad_winning + (pair * D2 + feature) * 3
        tl.store(out, gx, mask=in_features)
        tl.store(out + 1, gy, mask=in_features)
        tl.store(out + 2, gz, mask=in_features)
        tl.store(grad_origins + mine * 3, -tl.sum(gx, axis=0))
        tl.store(grad_origins + mine * 3 + 1, -tl.sum(gy, axis=0))
        tl.store(grad_origins + mine * 3 + 2, -tl.sum(gz, axis=0))

        tl.store(grad_b1 + mine * D1 + unit, tl.sum(to_units, axis=0), mask=in_units)
        to_ax = tl.sum(to_units * x[:, None], axis=0) * PER_UNIT
        to_ay = tl.sum(to_units * y[:, None], axis=0) * PER_UNIT
        to_az = tl.sum(to_units * z[:, None], axis=0) * PER_UNIT
        to_wx += to_ax * tl.load(r) + to_ay * tl.load(r + 3) + to_az * tl.load(r + 6)
        to_wy += to_ax * tl.load(r + 1) + to_ay * tl.load(r + 4) + to_az * tl.load(r + 7)
        to_wz += to_ax * tl.load(r + 2) + to_ay * tl.load(r + 5) + to_az * tl.load(r + 8)
        to_r = grad_rotations + mine * 9
        store_products(to_r, to_ax, wx, wy, wz)
        store_products(to_r + 3, to_ay, wx, wy, wz)
        store_products(to_r + 6, to_az, wx, wy, wz)

    tl.store(grad_w2 + image * D2 * D1 + at_weights, to_weights, mask=in_weights)
    to_w1 = grad_w1 + ((block * batch + image) * D1 + unit) * 3
    tl.store(to_w1, to_wx, mask=in_units)
    tl.store(to_w1 + 1, to_wy, mask=in_units)
    tl.store(to_w1 + 2, to_wz, mask=in_units)


@triton.jit
def store_products(at, gradient, wx, wy, wz):
    tl.store(at, tl.sum(gradient * wx, axis=0))
    tl.store(at + 1, tl.sum(gradient * wy, axis=0))
    tl.store(at + 2, tl.sum(gradient * wz, axis=0))


@triton.jit
def point_gradient_kernel(
    winners,  # int32 [B, ENTRIES]
    grad_winning,  # [B, ENTRIES, 3]
    grad_points,  # [B, N, 3]
    entries,  # F * D2
    num_points,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_ENTRIES: tl.constexpr,
):
    """Each point collects what it won, in the order of the entries: no atomics, the same bits every time."""
    image = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    sx = tl.zeros([BLOCK_ENTRIES, BLOCK_POINTS], tl.float32)
    sy = tl.zeros([BLOCK_ENTRIES, BLOCK_POINTS], tl.float32)
    sz = tl.zeros([BLOCK_ENTRIES, BLOCK_POINTS], tl.float32)
    for start in range(0, entries, BLOCK_ENTRIES):
        entry = start + tl.arange(0, BLOCK_ENTRIES)
        inside = entry < entries
        at = image * entries + entry
        hit = tl.load(winners + at, mask=inside, other=-1)[:, None] == n[None, :]
        gx = tl.load(grad_winning + at * 3, mask=inside, other=0.0)
        gy = tl.load(grad_winning + at * 3 + 1, mask=inside, other=0.0)
        gz = tl.load(grad_winning + at * 3 + 2, mask=inside, other=0.0)
        sx = tl.where(hit, sx + gx[:, None], sx)
        sy = tl.where(hit, sy + gy[:, None], sy)
        sz = tl.where(hit, sz + gz[:, None], sz)
    sx = tl.sum(sx, axis=0)
    sy = tl.sum(sy, axis=0)
    sz = tl.sum(sz, axis=0)
    out = grad_points + (image * num_points + n) * 3
    tl.store(out, sx, mask=n < num_points)
    tl.store(out + 1, sy, mask=n < num_points)
    tl.store(out + 2, sz, mask=n < num_points)
