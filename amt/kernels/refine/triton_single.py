"""``refine`` forward in Triton, one kernel a step: samples are blended straight into the GEMM's operand.

No feature buffer is written; each block streams w1 from L2 instead, so small row blocks pay for it with w1 traffic.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.refine.triton_sampling import dot, gelu, load_camera, load_joint, project, relative_to_wrist, sample
from amt.kernels.refine.triton_two_kernel import add_bias, load_relative_weights, load_w2, store_moved_joint


@triton.jit
def single_kernel(
    maps,
    sizes,
    scales,
    strides,
    intrinsics,
    packed,  # [PADDED_HIDDEN, PADDED_CHANNELS]: w1 without its relative columns, zero-padded
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
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    valid = row < rows
    image = (row // num_joints).to(tl.int64)
    joint = row % num_joints
    x, y, z = load_joint(entering, image * image_stride + joint * 3, valid)
    u, v, visible = project(x, y, z, load_camera(intrinsics, image, valid), valid)
    ox = tl.zeros([BLOCK_ROWS], tl.float32)
    oy = tl.zeros([BLOCK_ROWS], tl.float32)
    oz = tl.zeros([BLOCK_ROWS], tl.float32)
    for start_unit in range(0, HIDDEN, BLOCK_HIDDEN):
        unit = start_unit + tl.arange(0, BLOCK_HIDDEN)
        in_units = unit < HIDDEN
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
        relative = relative_to_wrist(entering, x, y, z, image * image_stride, valid)
        relative_weights = load_relative_weights(w1, unit, in_units, CHANNELS_TOTAL)
        hidden = gelu(add_bias(acc, b1, joint, unit, valid, in_units, relative, relative_weights, HIDDEN))
        w2x, w2y, w2z = load_w2(w2, unit, in_units, HIDDEN)
        ox += tl.sum(hidden * w2x[None, :], axis=1)
        oy += tl.sum(hidden * w2y[None, :], axis=1)
        oz += tl.sum(hidden * w2z[None, :], axis=1)
    store_moved_joint(out, image * out_stride + joint * 3, valid, x, y, z, ox, oy, oz, b2, scale)
