"""``refine`` forward in Triton. A step takes two kernels ("two_kernel") or one ("single").

    gather_kernel   features[row] = bilinear samples of all maps at the row's joint          row = image * J + joint
    mlp_kernel      joint + scale * (w2 gelu(w1 [features, relative] + b1) + b2): one GEMM and its epilogue
    single_kernel   both at once: the samples go straight into the GEMM's operand

The single kernel writes no feature buffer, but every row block reads all of w1 again: it pays where there are few rows.

The three wrist-relative columns of w1 do not enter the GEMM. The epilogue adds them in float32: coordinates are not rounded to
the dtype of the products, and the rows of the GEMM stay aligned.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.refine.triton_kernels.sampling import (
    dot,
    gelu,
    load_camera,
    load_joint,
    project,
    relative_to_wrist,
    sample,
)


@triton.jit
def locate_rows(rows, num_joints, BLOCK_ROWS: tl.constexpr):
    """This program's rows, whether each is there, its image (int64) and its joint."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return row, row < rows, (row // num_joints).to(tl.int64), row % num_joints


@triton.jit
def gather_kernel(
    maps,
    sizes,
    scales,
    strides,
    entering,  # joints that enter each step, image_stride floats between images and step_stride between steps
    image_stride,
    step_stride,
    intrinsics,
    features,  # [steps, rows, PADDED_CHANNELS]
    rows,
    num_joints,
    CHANNELS: tl.constexpr,  # of each map
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    row, valid, image, joint = locate_rows(rows, num_joints, BLOCK_ROWS)
    step = tl.program_id(1).to(tl.int64)
    entering += step * step_stride
    x, y, z = load_joint(entering, image * image_stride + joint * 3, valid)
    u, v, visible = project(x, y, z, load_camera(intrinsics, image, valid), valid)
    features += (step * rows + row)[:, None] * PADDED_CHANNELS
    first = 0
    for l in tl.static_range(len(CHANNELS)):
        for start in range(0, CHANNELS[l], BLOCK_CHANNELS):
            channel = start + tl.arange(0, BLOCK_CHANNELS)
            value = sample(maps[l], sizes[l], scales[l], strides[l], image, u, v, visible, channel, CHANNELS[l])
            tl.store(
                features + (first + channel)[None, :],
                value.to(features.dtype.element_ty),
                mask=valid[:, None] & (channel < CHANNELS[l])[None, :],
            )
        first += CHANNELS[l]
    # the GEMM reads whole blocks, and 0 * NaN is NaN: the padding channels must hold 0
    for start in range(first, PADDED_CHANNELS, 64):
        channel = start + tl.arange(0, 64)
        zeros = tl.zeros([BLOCK_ROWS, 64], features.dtype.element_ty)
        tl.store(features + channel[None, :], zeros, mask=valid[:, None] & (channel < PADDED_CHANNELS)[None, :])


@triton.jit
def multiply_features(
    features,
    packed,
    row,
    rows,
    unit,
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """features packed^T of one block [rows, units]."""
    acc = tl.zeros([BLOCK_ROWS, BLOCK_HIDDEN], tl.float32)
    feature = features + row.to(tl.int64)[:, None] * PADDED_CHANNELS
    weight = packed + unit[None, :] * PADDED_CHANNELS
    in_rows = (row < rows)[:, None]
    for start in range(0, PADDED_CHANNELS, BLOCK_CHANNELS):
        channel = start + tl.arange(0, BLOCK_CHANNELS)
        a = tl.load(feature + channel[None, :], mask=in_rows, other=0.0)
        b = tl.load(weight + channel[:, None])
        acc = dot(a, b, acc, UPCAST)
    return acc


@triton.jit
def load_relative_weights(w1, unit, in_units, CHANNELS_TOTAL: tl.constexpr):
    """The columns of w1 [D, C + 3] that read the wrist-relative coordinate."""
    column = w1 + unit * (CHANNELS_TOTAL + 3) + CHANNELS_TOTAL
    wx = tl.load(column, mask=in_units, other=0.0).to(tl.float32)
    wy = tl.load(column + 1, mask=in_units, other=0.0).to(tl.float32)
    wz = tl.load(column + 2, mask=in_units, other=0.0).to(tl.float32)
    return wx, wy, wz


@triton.jit
def pre_activations(acc, entering, wrist_offset, point, w1, b1, joint, unit, valid, CHANNELS_TOTAL, HIDDEN):
    """w1 f + b1 in float32: ``acc``, the GEMM's result, with the joint's bias and the wrist-relative columns added. Also returns
    the relative coordinates of ``point`` (x, y, z of each row) and their weights."""
    in_units = unit < HIDDEN
    relative = relative_to_wrist(entering, point[0], point[1], point[2], wrist_offset, valid)
    relative_weights = load_relative_weights(w1, unit, in_units, CHANNELS_TOTAL)
    mask = valid[:, None] & in_units[None, :]
    acc += tl.load(b1 + joint[:, None] * HIDDEN + unit[None, :], mask=mask, other=0.0).to(tl.float32)
    acc += relative[0][:, None] * relative_weights[0][None, :]
    acc += relative[1][:, None] * relative_weights[1][None, :]
    acc += relative[2][:, None] * relative_weights[2][None, :]
    return acc, relative, relative_weights


@triton.jit
def load_w2(w2, unit, in_units, HIDDEN: tl.constexpr):
    w2x = tl.load(w2 + unit, mask=in_units, other=0.0).to(tl.float32)
    w2y = tl.load(w2 + HIDDEN + unit, mask=in_units, other=0.0).to(tl.float32)
    w2z = tl.load(w2 + 2 * HIDDEN + unit, mask=in_units, other=0.0).to(tl.float32)
    return w2x, w2y, w2z


@triton.jit
def add_offsets(offset, hidden, w2, unit, HIDDEN):
    """The offset (x, y, z) of each row, with the part of one block of hidden units."""
    w2x, w2y, w2z = load_w2(w2, unit, unit < HIDDEN, HIDDEN)
    ox = offset[0] + tl.sum(hidden * w2x[None, :], axis=1)
    oy = offset[1] + tl.sum(hidden * w2y[None, :], axis=1)
    return ox, oy, offset[2] + tl.sum(hidden * w2z[None, :], axis=1)


@triton.jit
def store_moved_joint(out, offset, valid, x, y, z, ox, oy, oz, b2, scale):
    tl.store(out + offset, x + scale * (ox + tl.load(b2).to(tl.float32)), mask=valid)
    tl.store(out + offset + 1, y + scale * (oy + tl.load(b2 + 1).to(tl.float32)), mask=valid)
    tl.store(out + offset + 2, z + scale * (oz + tl.load(b2 + 2).to(tl.float32)), mask=valid)


@triton.jit
def mlp_kernel(
    features,  # [rows, PADDED_CHANNELS]
    packed,  # [PADDED_HIDDEN, PADDED_CHANNELS], zero-padded: w1 without its relative columns
    w1,  # [HIDDEN, CHANNELS_TOTAL + 3]
    b1,  # [J, HIDDEN]
    w2,  # [3, HIDDEN]
    b2,  # [3]
    entering,
    image_stride,
    out,  # joints that leave the step, out_stride floats between images
    out_stride,
    rows,
    num_joints,
    scale,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    row, valid, image, joint = locate_rows(rows, num_joints, BLOCK_ROWS)
    ox = tl.zeros([BLOCK_ROWS], tl.float32)
    oy = tl.zeros([BLOCK_ROWS], tl.float32)
    oz = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        acc = multiply_features(
            features, packed, row, rows, unit, PADDED_CHANNELS, BLOCK_ROWS, BLOCK_HIDDEN, BLOCK_CHANNELS, UPCAST
        )
        x, y, z = load_joint(entering, image * image_stride + joint * 3, valid)
        pre, _, _ = pre_activations(
            acc, entering, image * image_stride, (x, y, z), w1, b1, joint, unit, valid, CHANNELS_TOTAL, HIDDEN
        )
        ox, oy, oz = add_offsets((ox, oy, oz), gelu(pre), w2, unit, HIDDEN)
    x, y, z = load_joint(entering, image * image_stride + joint * 3, valid)
    store_moved_joint(out, image * out_stride + joint * 3, valid, x, y, z, ox, oy, oz, b2, scale)


@triton.jit
def single_kernel(
    maps,
    sizes,
    scales,
    strides,
    intrinsics,
    packed,  # [PADDED_HIDDEN, PADDED_CHANNELS], zero-padded: w1 without its relative columns
    w1,  # [HIDDEN, CHANNELS_TOTAL + 3]
    b1,  # [J, HIDDEN]
    w2,  # [3, HIDDEN]
    b2,  # [3]
    entering,  # joints that enter the step, image_stride floats between images
    image_stride,
    out,  # joints that leave the step, out_stride floats between images
    out_stride,
    rows,
    num_joints,
    scale,
    CHANNELS: tl.constexpr,  # of each map
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    _row, valid, image, joint = locate_rows(rows, num_joints, BLOCK_ROWS)
    x, y, z = load_joint(entering, image * image_stride + joint * 3, valid)
    u, v, visible = project(x, y, z, load_camera(intrinsics, image, valid), valid)
    ox = tl.zeros([BLOCK_ROWS], tl.float32)
    oy = tl.zeros([BLOCK_ROWS], tl.float32)
    oz = tl.zeros([BLOCK_ROWS], tl.float32)
    for start_unit in range(0, HIDDEN, BLOCK_HIDDEN):
        unit = start_unit + tl.arange(0, BLOCK_HIDDEN)
        acc = tl.zeros([BLOCK_ROWS, BLOCK_HIDDEN], tl.float32)
        first = 0
        for l in tl.static_range(len(CHANNELS)):
            for start in range(0, CHANNELS[l], BLOCK_CHANNELS):
                channel = start + tl.arange(0, BLOCK_CHANNELS)
                value = sample(maps[l], sizes[l], scales[l], strides[l], image, u, v, visible, channel, CHANNELS[l])
                weight = packed + unit[None, :] * PADDED_CHANNELS + (first + channel)[:, None]
                if CHANNELS[l] % BLOCK_CHANNELS == 0:
                    w = tl.load(weight)
                else:
                    w = tl.load(weight, mask=(channel < CHANNELS[l])[:, None], other=0.0)
                acc = dot(value.to(w.dtype), w, acc, UPCAST)
            first += CHANNELS[l]
        pre, _, _ = pre_activations(
            acc, entering, image * image_stride, (x, y, z), w1, b1, joint, unit, valid, CHANNELS_TOTAL, HIDDEN
        )
        ox, oy, oz = add_offsets((ox, oy, oz), gelu(pre), w2, unit, HIDDEN)
    store_moved_joint(out, image * out_stride + joint * 3, valid, x, y, z, ox, oy, oz, b2, scale)
