"""``refine`` backward in Triton, all but the maps' gradient: four kernels a step, no atomics, every output owned.

Features and pre-activations are computed again instead of being kept, so that nothing but the joints of each step is saved.

    gather_kernel            (of the forward) features
    mlp_backward_kernel      pre-activations again; their gradient, that of the relative coordinates, and per row block the
                             sums that w2 and the relative columns of w1 need
    feature_gradient_kernel  gradient of the samples: one GEMM
    weight_gradient_kernel   gradient of w1: one GEMM, split over rows; the parts are added in a fixed order afterwards
    joint_gradient_kernel    one program an image: through the taps and the projection into joints and intrinsics
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.refine.triton_sampling import (
    RELATIVE_UNIT,
    dot,
    gelu,
    gelu_derivative,
    is_finite,
    load_camera,
    load_joint,
    load_taps,
    project,
    relative_to_wrist,
)
from amt.kernels.refine.triton_two_kernel import add_bias, load_relative_weights, load_w2, multiply_features


@triton.jit
def store_partial(partial, column, mask, HIDDEN: tl.constexpr, vx, vy, vz):
    tl.store(partial + column, vx, mask=mask)
    tl.store(partial + HIDDEN + column, vy, mask=mask)
    tl.store(partial + 2 * HIDDEN + column, vz, mask=mask)


@triton.jit
def mlp_backward_kernel(
    features,  # [rows, PADDED_CHANNELS]
    packed,  # [PADDED_HIDDEN, PADDED_CHANNELS]
    w1,
    b1,
    w2,
    entering,
    image_stride,
    grad_offset,  # [rows, 3] float32: gradient of the MLP's output
    grad_hidden,  # [rows, PADDED_HIDDEN], out: gradient of the pre-activations
    grad_relative,  # [rows, 3] float32, out
    partial,  # [row blocks, 6, HIDDEN] float32, out: w2's gradient, then that of w1's relative columns
    rows,
    num_joints,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    block = tl.program_id(0)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    valid = row < rows
    image = (row // num_joints).to(tl.int64)
    joint = row % num_joints
    partial += block.to(tl.int64) * 6 * HIDDEN
    rx_grad = tl.zeros([BLOCK_ROWS], tl.float32)
    ry_grad = tl.zeros([BLOCK_ROWS], tl.float32)
    rz_grad = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, PADDED_HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        in_units = unit < HIDDEN
        acc = multiply_features(
            features, packed, row, rows, unit, PADDED_CHANNELS, BLOCK_ROWS, BLOCK_HIDDEN, BLOCK_CHANNELS, UPCAST
        )
        x, y, z = load_joint(entering, image * image_stride + joint * 3, valid)
        relative = relative_to_wrist(entering, x, y, z, image * image_stride, valid)
        relative_weights = load_relative_weights(w1, unit, in_units, CHANNELS_TOTAL)
        pre = add_bias(acc, b1, joint, unit, valid, in_units, relative, relative_weights, HIDDEN)

        gx, gy, gz = load_joint(grad_offset, row.to(tl.int64) * 3, valid)
        hidden = tl.where(valid[:, None], gelu(pre), 0.0)
        store_partial(
            partial,
            unit,
            in_units,
            HIDDEN,
            tl.sum(hidden * gx[:, None], axis=0),
            tl.sum(hidden * gy[:, None], axis=0),
            tl.sum(hidden * gz[:, None], axis=0),
        )
        w2x, w2y, w2z = load_w2(w2, unit, in_units, HIDDEN)
        grad = gx[:, None] * w2x[None, :] + gy[:, None] * w2y[None, :] + gz[:, None] * w2z[None, :]
        grad = tl.where(valid[:, None], grad * gelu_derivative(pre), 0.0)
        store_partial(
            partial + 3 * HIDDEN,
            unit,
            in_units,
            HIDDEN,
            tl.sum(grad * relative[0][:, None], axis=0),
            tl.sum(grad * relative[1][:, None], axis=0),
            tl.sum(grad * relative[2][:, None], axis=0),
        )
        rx_grad += tl.sum(grad * relative_weights[0][None, :], axis=1)
        ry_grad += tl.sum(grad * relative_weights[1][None, :], axis=1)
        rz_grad += tl.sum(grad * relative_weights[2][None, :], axis=1)
        tl.store(
            grad_hidden + row.to(tl.int64)[:, None] * PADDED_HIDDEN + unit[None, :],
            grad.to(grad_hidden.dtype.element_ty),
            mask=valid[:, None],
        )
    offset = row.to(tl.int64) * 3
    tl.store(grad_relative + offset, rx_grad, mask=valid)
    tl.store(grad_relative + offset + 1, ry_grad, mask=valid)
    tl.store(grad_relative + offset + 2, rz_grad, mask=valid)


@triton.jit
def feature_gradient_kernel(
    grad_hidden,  # [rows, PADDED_HIDDEN]
    packed,  # [PADDED_HIDDEN, PADDED_CHANNELS]
    grad_features,  # [rows, PADDED_CHANNELS], out
    rows,
    PADDED_CHANNELS: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    valid = (row < rows)[:, None]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(0, PADDED_HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        a = tl.load(grad_hidden + row.to(tl.int64)[:, None] * PADDED_HIDDEN + unit[None, :], mask=valid, other=0.0)
        b = tl.load(packed + unit[:, None] * PADDED_CHANNELS + channel[None, :])
        acc = dot(a, b, acc, UPCAST)
    out = grad_features + row.to(tl.int64)[:, None] * PADDED_CHANNELS + channel[None, :]
    tl.store(out, acc.to(grad_features.dtype.element_ty), mask=valid)


@triton.jit
def weight_gradient_kernel(
    grad_hidden,  # [rows, PADDED_HIDDEN]
    features,  # [rows, PADDED_CHANNELS]
    partial,  # [splits, PADDED_HIDDEN, PADDED_CHANNELS] float32, out
    rows,
    rows_per_split,
    PADDED_CHANNELS: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    unit = tl.program_id(0) * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    split = tl.program_id(2)
    first = split * rows_per_split
    acc = tl.zeros([BLOCK_HIDDEN, BLOCK_CHANNELS], tl.float32)
    for start in range(first, first + rows_per_split, BLOCK_ROWS):
        row = (start + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        valid = (row < rows)[:, None]
        a = tl.load(grad_hidden + row[:, None] * PADDED_HIDDEN + unit[None, :], mask=valid, other=0.0)
        b = tl.load(features + row[:, None] * PADDED_CHANNELS + channel[None, :], mask=valid, other=0.0)
        acc = dot(tl.trans(a), b, acc, UPCAST)
    out = partial + (split * PADDED_HIDDEN + unit).to(tl.int64)[:, None] * PADDED_CHANNELS + channel[None, :]
    tl.store(out, acc)


@triton.jit
def joint_gradient_kernel(
    maps,
    sizes,
    scales,
    strides,
    entering,
    image_stride,
    intrinsics,
    grad_features,  # [B * J, PADDED_CHANNELS]
    grad_relative,  # [B * J, 3]
    grad_leaving,  # [B * J, 3]: gradient of the joints that leave the step
    grad_entering,  # [B * J, 3], out
    grad_intrinsics,  # [B, 3, 3], added to
    num_joints,
    CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_JOINTS: tl.constexpr,  # >= num_joints: one program owns an image
    BLOCK_CHANNELS: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    joint = tl.arange(0, BLOCK_JOINTS)
    valid = joint < num_joints
    image_of_row = image + tl.zeros([BLOCK_JOINTS], tl.int64)
    offset = image * image_stride + joint * 3
    x, y, z = load_joint(entering, offset, valid)
    camera = load_camera(intrinsics, image_of_row, valid)
    u, v, visible = project(x, y, z, camera, valid)
    row = image * num_joints + joint
    gu = tl.zeros([BLOCK_JOINTS], tl.float32)
    gv = tl.zeros([BLOCK_JOINTS], tl.float32)
    first = 0
    for l in tl.static_range(len(CHANNELS)):
        gx = tl.zeros([BLOCK_JOINTS], tl.float32)
        gy = tl.zeros([BLOCK_JOINTS], tl.float32)
        for start in range(0, CHANNELS[l], BLOCK_CHANNELS):
            channel = start + tl.arange(0, BLOCK_CHANNELS)
            t00, t01, t10, t11, fx, fy = load_taps(
                maps[l], sizes[l], scales[l], strides[l], image_of_row, u, v, visible, channel, CHANNELS[l]
            )
            mask = valid[:, None] & (channel < CHANNELS[l])[None, :]
            grad = grad_features + row[:, None] * PADDED_CHANNELS + (first + channel)[None, :]
            g = tl.load(grad, mask=mask, other=0.0).to(tl.float32)
            gx += tl.sum(g * ((1 - fy[:, None]) * (t01 - t00) + fy[:, None] * (t11 - t10)), axis=1)
            gy += tl.sum(g * ((1 - fx[:, None]) * (t10 - t00) + fx[:, None] * (t11 - t01)), axis=1)
        gu += gx * scales[l][0]
        gv += gy * scales[l][1]
        first += CHANNELS[l]
    # u = (k00 x + k01 y + k02 z) / z, nothing of it where the joint has no projection
    gu = tl.where(visible, gu, 0.0)
    gv = tl.where(visible, gv, 0.0)
    safe_x = tl.where(visible, x, 0.0)
    safe_y = tl.where(visible, y, 0.0)
    safe_z = tl.where(visible, z, 1.0)
    gu = tl.div_rn(gu, safe_z)
    gv = tl.div_rn(gv, safe_z)
    px = tl.where(visible, gu * camera[0] + gv * camera[3], 0.0)
    py = tl.where(visible, gu * camera[1] + gv * camera[4], 0.0)
    pz = tl.where(visible, gu * (camera[2] - u) + gv * (camera[5] - v), 0.0)

    # relative = (joint - wrist) / 0.1: the wrist takes minus the sum over the joints, itself included
    x0, y0, z0 = load_joint(entering, image * image_stride + joint * 0, valid)
    rx, ry, rz = load_joint(grad_relative, row * 3, valid)
    rx = tl.where(is_finite((x - x0) / RELATIVE_UNIT), rx, 0.0) / RELATIVE_UNIT
    ry = tl.where(is_finite((y - y0) / RELATIVE_UNIT), ry, 0.0) / RELATIVE_UNIT
    rz = tl.where(is_finite((z - z0) / RELATIVE_UNIT), rz, 0.0) / RELATIVE_UNIT
    is_wrist = joint == 0
    lx, ly, lz = load_joint(grad_leaving, row * 3, valid)
    lx += px + rx - tl.where(is_wrist, tl.sum(rx, axis=0), 0.0)
    ly += py + ry - tl.where(is_wrist, tl.sum(ry, axis=0), 0.0)
    lz += pz + rz - tl.where(is_wrist, tl.sum(rz, axis=0), 0.0)
    tl.store(grad_entering + row * 3, lx, mask=valid)
    tl.store(grad_entering + row * 3 + 1, ly, mask=valid)
    tl.store(grad_entering + row * 3 + 2, lz, mask=valid)

    grad_camera = grad_intrinsics + image * 9
    tl.store(grad_camera, tl.load(grad_camera) + tl.sum(gu * safe_x, axis=0))
    tl.store(grad_camera + 1, tl.load(grad_camera + 1) + tl.sum(gu * safe_y, axis=0))
    tl.store(grad_camera + 2, tl.load(grad_camera + 2) + tl.sum(gu * safe_z, axis=0))
    tl.store(grad_camera + 3, tl.load(grad_camera + 3) + tl.sum(gv * safe_x, axis=0))
    tl.store(grad_camera + 4, tl.load(grad_camera + 4) + tl.sum(gv * safe_y, axis=0))
    tl.store(grad_camera + 5, tl.load(grad_camera + 5) + tl.sum(gv * safe_z, axis=0))
