"""``refine`` backward in Triton, all but the maps' gradient: no atomics, every output owned.

Features and pre-activations are computed again instead of being kept, so that nothing but the joints of each step is saved.
A launch takes all steps where no gradient passes from one to the next, else one: its tensors begin at its first step, and the
grid's last axis counts from there.

    gather_kernel            (of the forward) features
    mlp_backward_kernel      pre-activations again; their gradient, that of the relative coordinates, and per row block the
                             sums that w2, b2 and the relative columns of w1 need
    feature_gradient_kernel  gradient of the samples: one GEMM
    weight_gradient_kernel   gradient of w1: one GEMM, split over rows
    joint_gradient_kernel    one program an image: through the taps and the projection into joints and intrinsics
    weights_kernel           adds the parts of w1, w2 and b2 up, in a fixed order
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
def load_leaving(gradient, carried, offset, row, valid, CARRIED: tl.constexpr):
    """Gradient of the joints that leave a step: the caller's, and with CARRIED what the next step sends back."""
    gx, gy, gz = load_joint(gradient, offset, valid)
    if CARRIED:
        cx, cy, cz = load_joint(carried, row * 3, valid)
        gx += cx
        gy += cy
        gz += cz
    return gx, gy, gz


@triton.jit
def store_partial(partial, column, mask, WIDTH: tl.constexpr, vx, vy, vz):
    tl.store(partial + column, vx, mask=mask)
    tl.store(partial + WIDTH + column, vy, mask=mask)
    tl.store(partial + 2 * WIDTH + column, vz, mask=mask)


@triton.jit
def mlp_backward_kernel(
    features,  # [steps, rows, PADDED_CHANNELS]
    packed,  # [steps, PADDED_HIDDEN, PADDED_CHANNELS], packed_stride numbers between steps
    packed_stride,
    w1,
    w1_stride,
    b1,
    w2,
    entering,  # joints that enter each step, image_stride floats between images and step_stride between steps
    image_stride,
    step_stride,
    gradient,  # of the joints that leave each step, laid out like `entering`
    carried,  # [rows, 3] float32: what the next step sends back; not read unless CARRIED
    scale,  # of the first step's offsets
    grad_hidden,  # [steps, rows, PADDED_HIDDEN], out: gradient of the pre-activations
    grad_relative,  # [steps, rows, 3] float32, out
    partial,  # [steps, row blocks, 7, WIDTH] float32, out: gradient of w2, of w1's relative columns, and in one row that of b2
    rows,
    num_joints,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    CARRIED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    block = tl.program_id(0)
    step = tl.program_id(1).to(tl.int64)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    valid = row < rows
    image = (row // num_joints).to(tl.int64)
    joint = row % num_joints
    features += step * rows * PADDED_CHANNELS
    packed += step * packed_stride
    w1 += step * w1_stride
    b1 += step * num_joints * HIDDEN
    w2 += step * 3 * HIDDEN
    entering += step * step_stride
    partial += (step * tl.num_programs(0) + block) * 7 * WIDTH
    out_row = step * rows + row
    offset = image * image_stride + joint * 3
    gx, gy, gz = load_leaving(gradient + step * step_stride, carried, offset, row.to(tl.int64), valid, CARRIED)
    scale = scale / (1 << step).to(tl.float32)
    gx *= scale
    gy *= scale
    gz *= scale
    axis = tl.arange(0, 4)
    of_b2 = tl.where(axis == 0, tl.sum(gx, axis=0), tl.where(axis == 1, tl.sum(gy, axis=0), tl.sum(gz, axis=0)))
    tl.store(partial + 6 * WIDTH + axis, of_b2)
    rx_grad = tl.zeros([BLOCK_ROWS], tl.float32)
    ry_grad = tl.zeros([BLOCK_ROWS], tl.float32)
    rz_grad = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, PADDED_HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        in_units = unit < HIDDEN
        acc = multiply_features(
            features, packed, row, rows, unit, PADDED_CHANNELS, BLOCK_ROWS, BLOCK_HIDDEN, BLOCK_CHANNELS, UPCAST
        )
        x, y, z = load_joint(entering, offset, valid)
        relative = relative_to_wrist(entering, x, y, z, image * image_stride, valid)
        relative_weights = load_relative_weights(w1, unit, in_units, CHANNELS_TOTAL)
        pre = add_bias(acc, b1, joint, unit, valid, in_units, relative, relative_weights, HIDDEN)

        hidden = tl.where(valid[:, None], gelu(pre), 0.0)
        store_partial(
            partial,
            unit,
            in_units,
            WIDTH,
            tl.sum(hidden * gx[:, None], axis=0),
            tl.sum(hidden * gy[:, None], axis=0),
            tl.sum(hidden * gz[:, None], axis=0),
        )
        w2x, w2y, w2z = load_w2(w2, unit, in_units, HIDDEN)
        grad = gx[:, None] * w2x[None, :] + gy[:, None] * w2y[None, :] + gz[:, None] * w2z[None, :]
        grad = tl.where(valid[:, None], grad * gelu_derivative(pre), 0.0)
        store_partial(
            partial + 3 * WIDTH,
            unit,
            in_units,
            WIDTH,
            tl.sum(grad * relative[0][:, None], axis=0),
            tl.sum(grad * relative[1][:, None], axis=0),
            tl.sum(grad * relative[2][:, None], axis=0),
        )
        rx_grad += tl.sum(grad * relative_weights[0][None, :], axis=1)
        ry_grad += tl.sum(grad * relative_weights[1][None, :], axis=1)
        rz_grad += tl.sum(grad * relative_weights[2][None, :], axis=1)
        tl.store(
            grad_hidden + out_row[:, None] * PADDED_HIDDEN + unit[None, :],
            grad.to(grad_hidden.dtype.element_ty),
            mask=valid[:, None],
        )
    tl.store(grad_relative + out_row * 3, rx_grad, mask=valid)
    tl.store(grad_relative + out_row * 3 + 1, ry_grad, mask=valid)
    tl.store(grad_relative + out_row * 3 + 2, rz_grad, mask=valid)


@triton.jit
def feature_gradient_kernel(
    grad_hidden,  # [steps, rows, PADDED_HIDDEN]
    packed,  # [steps, PADDED_HIDDEN, PADDED_CHANNELS], packed_stride numbers between steps
    packed_stride,
    grad_features,  # [steps, rows, PADDED_CHANNELS], out
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
    step = tl.program_id(2).to(tl.int64)
    valid = (row < rows)[:, None]
    packed += step * packed_stride
    row_of_all = (step * rows + row)[:, None]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(0, PADDED_HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        a = tl.load(grad_hidden + row_of_all * PADDED_HIDDEN + unit[None, :], mask=valid, other=0.0)
        b = tl.load(packed + unit[:, None] * PADDED_CHANNELS + channel[None, :])
        acc = dot(a, b, acc, UPCAST)
    out = grad_features + row_of_all * PADDED_CHANNELS + channel[None, :]
    tl.store(out, acc.to(grad_features.dtype.element_ty), mask=valid)


@triton.jit
def weight_gradient_kernel(
    grad_hidden,  # [steps, rows, PADDED_HIDDEN]
    features,  # [steps, rows, PADDED_CHANNELS]
    parts,  # [steps, splits, PADDED_HIDDEN, PADDED_CHANNELS] float32, out
    rows,
    rows_per_split,
    splits,
    PADDED_CHANNELS: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    unit = tl.program_id(0) * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    part = tl.program_id(2)
    first_of_step = (part // splits).to(tl.int64) * rows
    first = part % splits * rows_per_split
    acc = tl.zeros([BLOCK_HIDDEN, BLOCK_CHANNELS], tl.float32)
    for start in range(first, first + rows_per_split, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        valid = (row < rows)[:, None]
        row_of_all = (first_of_step + row)[:, None]
        a = tl.load(grad_hidden + row_of_all * PADDED_HIDDEN + unit[None, :], mask=valid, other=0.0)
        b = tl.load(features + row_of_all * PADDED_CHANNELS + channel[None, :], mask=valid, other=0.0)
        acc = dot(tl.trans(a), b, acc, UPCAST)
    out = parts + (part * PADDED_HIDDEN + unit).to(tl.int64)[:, None] * PADDED_CHANNELS + channel[None, :]
    tl.store(out, acc)


@triton.jit
def weights_kernel(
    parts,  # [steps, splits, PADDED_HIDDEN, PADDED_CHANNELS] float32
    partial,  # [steps, row blocks, 7, WIDTH] float32, of mlp_backward_kernel
    grad_w1,  # [steps, HIDDEN, CHANNELS_TOTAL + 3], out
    grad_w2,  # [steps, 3, HIDDEN], out
    grad_b2,  # [steps, 3], out
    splits,
    row_blocks,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    unit = tl.program_id(0) * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    step = tl.program_id(2).to(tl.int64)
    in_units = unit < HIDDEN
    inside = in_units[:, None] & (channel < CHANNELS_TOTAL)[None, :]
    row_of_w1 = grad_w1 + (step * HIDDEN + unit) * (CHANNELS_TOTAL + 3)
    acc = tl.zeros([BLOCK_HIDDEN, BLOCK_CHANNELS], tl.float32)
    for split in range(splits):
        row = ((step * splits + split) * PADDED_HIDDEN + unit)[:, None] * PADDED_CHANNELS
        acc += tl.load(parts + row + channel[None, :], mask=inside, other=0.0)
    tl.store(row_of_w1[:, None] + channel[None, :], acc.to(grad_w1.dtype.element_ty), mask=inside)
    partial += step * row_blocks * 7 * WIDTH
    if tl.program_id(1) == 0:
        for axis in tl.static_range(3):
            of_w2 = add_blocks(partial + axis * WIDTH, unit, in_units, row_blocks, WIDTH)
            tl.store(grad_w2 + (step * 3 + axis) * HIDDEN + unit, of_w2.to(grad_w2.dtype.element_ty), mask=in_units)
            of_relative = add_blocks(partial + (3 + axis) * WIDTH, unit, in_units, row_blocks, WIDTH)
            tl.store(row_of_w1 + CHANNELS_TOTAL + axis, of_relative.to(grad_w1.dtype.element_ty), mask=in_units)
    if tl.program_id(0) + tl.program_id(1) == 0:
        axes = tl.arange(0, 16)
        of_b2 = add_blocks(partial + 6 * WIDTH, axes, axes < 3, row_blocks, WIDTH)
        tl.store(grad_b2 + step * 3 + axes, of_b2.to(grad_b2.dtype.element_ty), mask=axes < 3)


@triton.jit
def add_blocks(partial, column, mask, row_blocks, WIDTH: tl.constexpr):
    """Sums of ``partial`` [row blocks, 7, WIDTH], at one of the seven, over the blocks."""
    acc = tl.zeros([32, column.shape[0]], tl.float32)
    for start in range(0, row_blocks, 32):
        block = start + tl.arange(0, 32)
        values = partial + block[:, None] * (7 * WIDTH) + column[None, :]
        acc += tl.load(values, mask=(block < row_blocks)[:, None] & mask[None, :], other=0.0)
    return tl.sum(acc, axis=0)


@triton.jit
def joint_gradient_kernel(
    maps,
    sizes,
    scales,
    strides,
    entering,  # joints that enter each step, image_stride floats between images and step_stride between steps
    image_stride,
    step_stride,
    intrinsics,
    grad_features,  # [steps, B * J, PADDED_CHANNELS]
    grad_relative,  # [steps, B * J, 3]
    gradient,  # of the joints that leave each step, laid out like `entering`
    carried,  # [B * J, 3]: what the next step sends back; not read unless CARRIED
    grad_entering,  # [steps, B * J, 3], out
    grad_intrinsics,  # [steps, B, 3, 3], out
    num_joints,
    CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_JOINTS: tl.constexpr,  # >= num_joints: one program owns an image
    BLOCK_CHANNELS: tl.constexpr,
    CARRIED: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    step = tl.program_id(1).to(tl.int64)
    image_of_all = step * tl.num_programs(0) + image
    joint = tl.arange(0, BLOCK_JOINTS)
    valid = joint < num_joints
    image_of_row = image + tl.zeros([BLOCK_JOINTS], tl.int64)
    entering += step * step_stride
    offset = image * image_stride + joint * 3
    x, y, z = load_joint(entering, offset, valid)
    camera = load_camera(intrinsics, image_of_row, valid)
    u, v, visible = project(x, y, z, camera, valid)
    row = image_of_all * num_joints + joint
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
    lx, ly, lz = load_leaving(
        gradient + step * step_stride, carried, offset, image * num_joints + joint, valid, CARRIED
    )
    lx += px + rx - tl.where(is_wrist, tl.sum(rx, axis=0), 0.0)
    ly += py + ry - tl.where(is_wrist, tl.sum(ry, axis=0), 0.0)
    lz += pz + rz - tl.where(is_wrist, tl.sum(rz, axis=0), 0.0)
    tl.store(grad_entering + row * 3, lx, mask=valid)
    tl.store(grad_entering + row * 3 + 1, ly, mask=valid)
    tl.store(grad_entering + row * 3 + 2, lz, mask=valid)

    grad_camera = grad_intrinsics + image_of_all * 9
    tl.store(grad_camera, tl.sum(gu * safe_x, axis=0))
    tl.store(grad_camera + 1, tl.sum(gu * safe_y, axis=0))
    tl.store(grad_camera + 2, tl.sum(gu * safe_z, axis=0))
    tl.store(grad_camera + 3, tl.sum(gv * safe_x, axis=0))
    tl.store(grad_camera + 4, tl.sum(gv * safe_y, axis=0))
    tl.store(grad_camera + 5, tl.sum(gv * safe_z, axis=0))
    tl.store(grad_camera + 6 + tl.arange(0, 4), tl.zeros([4], tl.float32), mask=tl.arange(0, 4) < 3)
