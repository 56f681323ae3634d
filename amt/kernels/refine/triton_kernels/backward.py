"""``refine`` backward in Triton, except for the maps' gradient (map_gradient.py). No atomics: each output has one owner.

Only the joints of each step are saved; features and pre-activations are recomputed.
detach=True: one launch for all steps. detach=False: one launch per step. The tensors of a launch begin at its first step, and
the last axis of the grid counts the steps from there.

    gather_kernel            (of forward.py) features
    mlp_backward_kernel      recomputes the pre-activations; their gradient, the gradient of the relative coordinates, and for
                             each row block its part of the gradients of w2, b2 and w1's relative columns
    feature_gradient_kernel  gradient of the samples: one GEMM
    weight_gradient_kernel   gradient of w1: one GEMM, split over rows
    joint_gradient_kernel    one program per image: gradients of joints and intrinsics, through the taps and the projection
    weights_kernel           adds the parts of w1, w2 and b2 up, in a fixed order
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.refine.triton_kernels.forward import load_w2, locate_rows, multiply_features, pre_activations
from amt.kernels.refine.triton_kernels.sampling import (
    RELATIVE_UNIT,
    dot,
    gelu,
    gelu_derivative,
    is_finite,
    load_camera,
    load_joint,
    load_taps,
    project,
)


@triton.jit
def load_leaving(grad_steps, carried, offset, row, valid, CARRIED: tl.constexpr):
    """Gradient of the joints that leave a step: the caller's, and with CARRIED also the next step's."""
    grad_x, grad_y, grad_z = load_joint(grad_steps, offset, valid)
    if CARRIED:
        carried_x, carried_y, carried_z = load_joint(carried, row * 3, valid)
        grad_x += carried_x
        grad_y += carried_y
        grad_z += carried_z
    return grad_x, grad_y, grad_z


@triton.jit
def store_partial(partial, column, mask, WIDTH: tl.constexpr, vx, vy, vz):
    tl.store(partial + column, vx, mask=mask)
    tl.store(partial + WIDTH + column, vy, mask=mask)
    tl.store(partial + 2 * WIDTH + column, vz, mask=mask)


@triton.jit
def mlp_backward_kernel(
    features,  # [steps, rows, PADDED_CHANNELS]
    packed,  # [steps, PADDED_HIDDEN, PADDED_CHANNELS], packed_stride numbers between steps
    w1,  # [steps, HIDDEN, CHANNELS_TOTAL + 3], w1_stride numbers between steps
    b1,  # [steps, J, HIDDEN]
    w2,  # [steps, 3, HIDDEN]
    packed_stride,
    w1_stride,
    entering,  # joints that enter each step, image_stride floats between images and step_stride between steps
    image_stride,
    step_stride,
    grad_steps,  # of the joints that leave each step, laid out like `entering`
    carried,  # [rows, 3] float32: the next step's gradient of its entering joints; read only if CARRIED
    scale,  # of the first step's offsets
    grad_hidden,  # [steps, rows, PADDED_HIDDEN], out: gradient of the pre-activations
    grad_relative,  # [steps, rows, 3] float32, out
    partial,  # [steps, row blocks, 7, WIDTH] float32, out: gradients of w2 (3), of w1's relative columns (3), of b2 (1)
    rows,
    num_joints,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    UPCAST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    CARRIED: tl.constexpr,
):
    step = tl.program_id(1).to(tl.int64)
    row, valid, image, joint = locate_rows(rows, num_joints, BLOCK_ROWS)
    features += step * rows * PADDED_CHANNELS
    packed += step * packed_stride
    w1 += step * w1_stride
    b1 += step * num_joints * HIDDEN
    w2 += step * 3 * HIDDEN
    entering += step * step_stride
    partial += (step * tl.num_programs(0) + tl.program_id(0)) * 7 * WIDTH
    out_row = step * rows + row
    offset = image * image_stride + joint * 3
    grad_x, grad_y, grad_z = load_leaving(
        grad_steps + step * step_stride, carried, offset, row.to(tl.int64), valid, CARRIED
    )
    scale = scale / (1 << step).to(tl.float32)
    grad_x *= scale
    grad_y *= scale
    grad_z *= scale
    axis = tl.arange(0, 4)
    sums = tl.where(
        axis == 0, tl.sum(grad_x, axis=0), tl.where(axis == 1, tl.sum(grad_y, axis=0), tl.sum(grad_z, axis=0))
    )
    tl.store(partial + 6 * WIDTH + axis, sums)
    grad_rx = tl.zeros([BLOCK_ROWS], tl.float32)
    grad_ry = tl.zeros([BLOCK_ROWS], tl.float32)
    grad_rz = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, PADDED_HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        in_units = unit < HIDDEN
        acc = multiply_features(
            features, packed, row, rows, unit, PADDED_CHANNELS, BLOCK_ROWS, BLOCK_HIDDEN, BLOCK_CHANNELS, UPCAST
        )
        x, y, z = load_joint(entering, offset, valid)
        pre, relative, relative_weights = pre_activations(
            acc, entering, image * image_stride, (x, y, z), w1, b1, joint, unit, valid, CHANNELS_TOTAL, HIDDEN
        )
        hidden = tl.where(valid[:, None], gelu(pre), 0.0)
        store_partial(
            partial,
            unit,
            in_units,
            WIDTH,
            tl.sum(hidden * grad_x[:, None], axis=0),
            tl.sum(hidden * grad_y[:, None], axis=0),
            tl.sum(hidden * grad_z[:, None], axis=0),
        )
        w2x, w2y, w2z = load_w2(w2, unit, in_units, HIDDEN)
        grad = grad_x[:, None] * w2x[None, :] + grad_y[:, None] * w2y[None, :] + grad_z[:, None] * w2z[None, :]
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
        grad_rx += tl.sum(grad * relative_weights[0][None, :], axis=1)
        grad_ry += tl.sum(grad * relative_weights[1][None, :], axis=1)
        grad_rz += tl.sum(grad * relative_weights[2][None, :], axis=1)
        tl.store(
            grad_hidden + out_row[:, None] * PADDED_HIDDEN + unit[None, :],
            grad.to(grad_hidden.dtype.element_ty),
            mask=valid[:, None],
        )
    tl.store(grad_relative + out_row * 3, grad_rx, mask=valid)
    tl.store(grad_relative + out_row * 3 + 1, grad_ry, mask=valid)
    tl.store(grad_relative + out_row * 3 + 2, grad_rz, mask=valid)


@triton.jit
def feature_gradient_kernel(
    grad_hidden,  # [steps, rows, PADDED_HIDDEN]
    packed,  # [steps, PADDED_HIDDEN, PADDED_CHANNELS], packed_stride numbers between steps
    packed_stride,
    grad_features,  # [steps, rows, PADDED_CHANNELS], out
    rows,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    step = tl.program_id(2).to(tl.int64)
    valid = (row < rows)[:, None]
    packed += step * packed_stride
    flat_row = (step * rows + row)[:, None]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(0, PADDED_HIDDEN, BLOCK_HIDDEN):
        unit = start + tl.arange(0, BLOCK_HIDDEN)
        a = tl.load(grad_hidden + flat_row * PADDED_HIDDEN + unit[None, :], mask=valid, other=0.0)
        b = tl.load(packed + unit[:, None] * PADDED_CHANNELS + channel[None, :])
        acc = dot(a, b, acc, UPCAST)
    out = grad_features + flat_row * PADDED_CHANNELS + channel[None, :]
    tl.store(out, acc.to(grad_features.dtype.element_ty), mask=valid)


@triton.jit
def weight_gradient_kernel(
    grad_hidden,  # [steps, rows, PADDED_HIDDEN]
    features,  # [steps, rows, PADDED_CHANNELS]
    parts,  # [steps, splits, PADDED_HIDDEN, PADDED_CHANNELS] float32, out
    rows,
    rows_per_split,
    splits,
    CHANNELS_TOTAL: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
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
        flat_row = (first_of_step + row)[:, None]
        a = tl.load(grad_hidden + flat_row * PADDED_HIDDEN + unit[None, :], mask=valid, other=0.0)
        b = tl.load(features + flat_row * PADDED_CHANNELS + channel[None, :], mask=valid, other=0.0)
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
    UPCAST: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    unit = tl.program_id(0) * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    step = tl.program_id(2).to(tl.int64)
    in_units = unit < HIDDEN
    inside = in_units[:, None] & (channel < CHANNELS_TOTAL)[None, :]
    grad_w1_row = grad_w1 + (step * HIDDEN + unit) * (CHANNELS_TOTAL + 3)
    acc = tl.zeros([BLOCK_HIDDEN, BLOCK_CHANNELS], tl.float32)
    for split in range(splits):
        row = ((step * splits + split) * PADDED_HIDDEN + unit)[:, None] * PADDED_CHANNELS
        acc += tl.load(parts + row + channel[None, :], mask=inside, other=0.0)
    tl.store(grad_w1_row[:, None] + channel[None, :], acc.to(grad_w1.dtype.element_ty), mask=inside)
    partial += step * row_blocks * 7 * WIDTH
    if tl.program_id(1) == 0:
        for axis in tl.static_range(3):
            sums = add_blocks(partial + axis * WIDTH, unit, in_units, row_blocks, WIDTH)
            tl.store(grad_w2 + (step * 3 + axis) * HIDDEN + unit, sums.to(grad_w2.dtype.element_ty), mask=in_units)
            relative_sums = add_blocks(partial + (3 + axis) * WIDTH, unit, in_units, row_blocks, WIDTH)
            tl.store(grad_w1_row + CHANNELS_TOTAL + axis, relative_sums.to(grad_w1.dtype.element_ty), mask=in_units)
    if tl.program_id(0) + tl.program_id(1) == 0:
        axes = tl.arange(0, 16)
        sums = add_blocks(partial + 6 * WIDTH, axes, axes < 3, row_blocks, WIDTH)
        tl.store(grad_b2 + step * 3 + axes, sums.to(grad_b2.dtype.element_ty), mask=axes < 3)


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
    grad_steps,  # of the joints that leave each step, laid out like `entering`
    carried,  # [B * J, 3]: the next step's gradient of its entering joints; read only if CARRIED
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
    flat_image = step * tl.num_programs(0) + image
    joint = tl.arange(0, BLOCK_JOINTS)
    valid = joint < num_joints
    image_of_row = image + tl.zeros([BLOCK_JOINTS], tl.int64)
    entering += step * step_stride
    offset = image * image_stride + joint * 3
    x, y, z = load_joint(entering, offset, valid)
    camera = load_camera(intrinsics, image_of_row, valid)
    u, v, visible = project(x, y, z, camera, valid)
    row = flat_image * num_joints + joint
    grad_u = tl.zeros([BLOCK_JOINTS], tl.float32)
    grad_v = tl.zeros([BLOCK_JOINTS], tl.float32)
    first = 0
    for l in tl.static_range(len(CHANNELS)):
        grad_x = tl.zeros([BLOCK_JOINTS], tl.float32)
        grad_y = tl.zeros([BLOCK_JOINTS], tl.float32)
        for start in range(0, CHANNELS[l], BLOCK_CHANNELS):
            channel = start + tl.arange(0, BLOCK_CHANNELS)
            t00, t01, t10, t11, fx, fy = load_taps(
                maps[l], sizes[l], scales[l], strides[l], image_of_row, u, v, visible, channel, CHANNELS[l]
            )
            mask = valid[:, None] & (channel < CHANNELS[l])[None, :]
            grad = grad_features + row[:, None] * PADDED_CHANNELS + (first + channel)[None, :]
            g = tl.load(grad, mask=mask, other=0.0).to(tl.float32)
            grad_x += tl.sum(g * ((1 - fy[:, None]) * (t01 - t00) + fy[:, None] * (t11 - t10)), axis=1)
            grad_y += tl.sum(g * ((1 - fx[:, None]) * (t10 - t00) + fx[:, None] * (t11 - t01)), axis=1)
        grad_u += grad_x * scales[l][0]
        grad_v += grad_y * scales[l][1]
        first += CHANNELS[l]
    # u = (k00 x + k01 y + k02 z) / z; a joint without a projection sends no gradient through it
    grad_u = tl.where(visible, grad_u, 0.0)
    grad_v = tl.where(visible, grad_v, 0.0)
    safe_x = tl.where(visible, x, 0.0)
    safe_y = tl.where(visible, y, 0.0)
    safe_z = tl.where(visible, z, 1.0)
    grad_u = tl.div_rn(grad_u, safe_z)
    grad_v = tl.div_rn(grad_v, safe_z)
    grad_px = tl.where(visible, grad_u * camera[0] + grad_v * camera[3], 0.0)
    grad_py = tl.where(visible, grad_u * camera[1] + grad_v * camera[4], 0.0)
    grad_pz = tl.where(visible, grad_u * (camera[2] - u) + grad_v * (camera[5] - v), 0.0)

    # relative = (joint - wrist) / 0.1 m: the wrist's gradient is minus the sum over all joints, itself included
    x0, y0, z0 = load_joint(entering, image * image_stride + joint * 0, valid)
    grad_rx, grad_ry, grad_rz = load_joint(grad_relative, row * 3, valid)
    grad_rx = tl.where(is_finite((x - x0) / RELATIVE_UNIT), grad_rx, 0.0) / RELATIVE_UNIT
    grad_ry = tl.where(is_finite((y - y0) / RELATIVE_UNIT), grad_ry, 0.0) / RELATIVE_UNIT
    grad_rz = tl.where(is_finite((z - z0) / RELATIVE_UNIT), grad_rz, 0.0) / RELATIVE_UNIT
    is_wrist = joint == 0
    grad_jx, grad_jy, grad_jz = load_leaving(
        grad_steps + step * step_stride, carried, offset, image * num_joints + joint, valid, CARRIED
    )
    grad_jx += grad_px + grad_rx - tl.where(is_wrist, tl.sum(grad_rx, axis=0), 0.0)
    grad_jy += grad_py + grad_ry - tl.where(is_wrist, tl.sum(grad_ry, axis=0), 0.0)
    grad_jz += grad_pz + grad_rz - tl.where(is_wrist, tl.sum(grad_rz, axis=0), 0.0)
    tl.store(grad_entering + row * 3, grad_jx, mask=valid)
    tl.store(grad_entering + row * 3 + 1, grad_jy, mask=valid)
    tl.store(grad_entering + row * 3 + 2, grad_jz, mask=valid)

    grad_camera = grad_intrinsics + flat_image * 9
    tl.store(grad_camera, tl.sum(grad_u * safe_x, axis=0))
    tl.store(grad_camera + 1, tl.sum(grad_u * safe_y, axis=0))
    tl.store(grad_camera + 2, tl.sum(grad_u * safe_z, axis=0))
    tl.store(grad_camera + 3, tl.sum(grad_v * safe_x, axis=0))
    tl.store(grad_camera + 4, tl.sum(grad_v * safe_y, axis=0))
    tl.store(grad_camera + 5, tl.sum(grad_v * safe_z, axis=0))
    tl.store(grad_camera + 6 + tl.arange(0, 4), tl.zeros([4], tl.float32), mask=tl.arange(0, 4) < 3)
