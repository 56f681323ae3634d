"""``refine`` backward in Triton: the gradient of one map, deterministic without atomics or a float32 copy of the map.

One image's taps come from that image's S x J projections only. A program takes one image, one of the four taps of a block of
those projections, and a block of channels. Of all projections that touch a cell, the first one owns it: its program adds up
what every projection puts there, as one small matrix product  out[owner] = sum over rows of match[owner, row] grad[row],
and writes the cell once. The map's gradient is zero-filled beforehand.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.refine.triton_sampling import corner, is_finite, load_camera, load_joint, project


@triton.jit
def locate_kernel(
    sizes,
    scales,
    entering,  # [B, S, J, 3]: the joints that enter each step
    intrinsics,
    cells,  # [maps, B, S * J, 4] int32, out: the flat cell of each tap, -1 outside
    weights,  # [maps, B, S * J, 4] float32, out
    total,  # B * S * J
    count,  # S * J
    NUM_MAPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """The taps of every projection, once for all channel blocks."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    valid = row < total
    row = row.to(tl.int64)
    x, y, z = load_joint(entering, row * 3, valid)
    u, v, visible = project(x, y, z, load_camera(intrinsics, row // count, valid), valid)
    for l in tl.static_range(NUM_MAPS):
        column, fx, left, right = corner(u, visible, sizes[l][1], scales[l][0])
        line, fy, top, bottom = corner(v, visible, sizes[l][0], scales[l][1])
        cell = line * sizes[l][1] + column
        offset = (row + l * total.to(tl.int64)) * 4
        for tap in tl.static_range(4):
            inside = (bottom if tap // 2 else top) & (right if tap % 2 else left)
            weight = (fy if tap // 2 else 1 - fy) * (fx if tap % 2 else 1 - fx)
            tl.store(
                cells + offset + tap,
                tl.where(inside, cell + tap // 2 * sizes[l][1] + tap % 2, -1).to(tl.int32),
                mask=valid,
            )
            tl.store(weights + offset + tap, weight, mask=valid)


@triton.jit
def match(cell, cells, weights, row, valid):
    """[owners, rows]: whether each row touches each owner's cell, and the weight with which it does."""
    weight = tl.zeros([cell.shape[0], row.shape[0]], tl.float32)
    touches = weight > 0.0
    # a row touches a cell with at most one of its taps
    for tap in tl.static_range(4):
        there = cell[:, None] == tl.load(cells + row * 4 + tap, mask=valid, other=-1)[None, :]
        weight = tl.where(there, tl.load(weights + row * 4 + tap, mask=valid, other=0.0)[None, :], weight)
        touches = touches | there
    return touches, weight


@triton.jit
def accumulate(acc, weight, grad, SPLIT: tl.constexpr, UPCAST: tl.constexpr):
    """acc + weight grad. ``SPLIT``: the float32 weight as a sum of two numbers of the maps' dtype, for the tensor cores."""
    if SPLIT:
        high = weight.to(grad.dtype)
        low = (weight - high.to(tl.float32)).to(grad.dtype)
        acc = tl.dot(low, grad, tl.dot(high, grad, acc))
    elif UPCAST:
        acc = tl.dot(weight, grad.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(weight, grad, acc, input_precision="ieee")
    return acc


@triton.jit
def map_gradient_kernel(
    cells,  # [B, S * J, 4] int32, of this map
    weights,  # [B, S * J, 4] float32
    grad_features,  # [S, B, J, PADDED_CHANNELS]
    out,  # [B, CELLS, CHANNELS], zeros
    num_cells,
    batch,
    num_joints,
    count,  # S * J
    first,  # the map's first column in grad_features
    CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    SPLIT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    tap = tl.program_id(1) % 4
    own = tl.program_id(1) // 4 * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    cells += image * count * 4
    weights += image * count * 4
    cell = tl.load(cells + own * 4 + tap, mask=own < count, other=-1)
    owned = cell >= 0
    cell = tl.where(owned, cell, -2)  # -1 would match every tap that lies outside
    acc = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(0, count, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        valid = row < count
        touches, weight = match(cell, cells, weights, row, valid)
        source = ((row // num_joints).to(tl.int64) * batch + image) * num_joints + row % num_joints
        grad = grad_features + source[:, None] * PADDED_CHANNELS + (first + channel)[None, :]
        grad = tl.load(grad, mask=valid[:, None] & (channel < CHANNELS)[None, :], other=0.0)
        # 0 * NaN in the product must not carry a broken gradient into cells that its row does not touch
        sound = is_finite(grad.to(tl.float32))
        acc = accumulate(acc, weight, tl.where(sound, grad, 0.0), SPLIT, UPCAST)
        if tl.min(tl.min(sound.to(tl.int32), axis=1), axis=0) == 0:
            broken = tl.dot(touches.to(tl.float16), tl.where(sound, 0.0, 1.0).to(tl.float16))
            acc = tl.where(broken > 0.0, float("nan"), acc)
        earlier = tl.sum((touches & (row[None, :] < own[:, None])).to(tl.int32), axis=1)
        owned = owned & (earlier == 0)
    out += image * num_cells * CHANNELS
    tl.store(
        out + cell.to(tl.int64)[:, None] * CHANNELS + channel[None, :],
        acc.to(out.dtype.element_ty),
        mask=owned[:, None] & (channel < CHANNELS)[None, :],
    )
