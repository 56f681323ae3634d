"""``refine`` backward in Triton: the gradient of one map. Deterministic, without atomics and without a float32 copy of the map.

    locate_kernel         the cell and the weight of each tap
    link_kernel           a linked list for each cell: its taps in their order; the first tap owns the cell
    map_gradient_kernel   adds the taps of a list up and writes the cell once

The taps of an image come from its own S x J projections only. The caller fills the map's gradient with zeros first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amt.kernels.refine.triton_kernels.sampling import corner, load_camera, load_joint, project


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
    """The taps of every projection, computed once for all channel blocks."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    valid = row < total
    row = row.to(tl.int64)
    x, y, z = load_joint(entering, row * 3, valid)
    u, v, visible = project(x, y, z, load_camera(intrinsics, row // count, valid), valid)
    for l in tl.static_range(NUM_MAPS):
        column, fx, left, right = corner(u, visible, sizes[l][1], scales[l][0])
        map_row, fy, top, bottom = corner(v, visible, sizes[l][0], scales[l][1])
        cell = map_row * sizes[l][1] + column
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
def link_kernel(
    cells,  # [B, N] int32, N = S * J * 4: the cell of each tap, -1 outside
    owned,  # [B, N] int32, out: the cell, for the first of the taps on it; -1 for the others
    following,  # [B, N] int32, out: the next tap on the same cell; -1 after the last
    num_taps,
    BLOCK: tl.constexpr,
):
    """Links the taps of one image that lie on the same cell, in their order."""
    image = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    cells += image * num_taps
    cell = tl.load(cells + own, mask=own < num_taps, other=-1)
    nearest = tl.full([BLOCK], 2147483647, tl.int32)
    earlier = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_taps, BLOCK):
        other = start + tl.arange(0, BLOCK)
        same = cell[:, None] == tl.load(cells + other, mask=other < num_taps, other=-2)[None, :]
        later = tl.where(same & (other[None, :] > own[:, None]), other[None, :], 2147483647)
        nearest = tl.minimum(nearest, tl.min(later, axis=1))
        earlier += tl.sum((same & (other[None, :] < own[:, None])).to(tl.int32), axis=1)
    at = image * num_taps + own
    tl.store(owned + at, tl.where(earlier == 0, cell, -1), mask=own < num_taps)
    tl.store(following + at, tl.where(nearest < num_taps, nearest, -1), mask=own < num_taps)


@triton.jit
def map_gradient_kernel(
    owned,  # [B, N] int32, of this map
    following,  # [B, N] int32
    weights,  # [B, N] float32
    grad_features,  # [S, B, J, PADDED_CHANNELS]
    grad_map,  # [B, CELLS, CHANNELS], zeros, out
    num_cells,
    batch,
    num_joints,
    num_taps,  # N = S * J * 4
    first,  # the map's first column in grad_features
    CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1) * BLOCK_TAPS + tl.arange(0, BLOCK_TAPS)
    channel = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_channels = (channel < CHANNELS)[None, :]
    cell = tl.load(owned + image * num_taps + own, mask=own < num_taps, other=-1)
    following += image * num_taps
    weights += image * num_taps
    acc = tl.zeros([BLOCK_TAPS, BLOCK_CHANNELS], tl.float32)
    tap = tl.where(cell >= 0, own, -1)
    while tl.max(tap, axis=0) >= 0:
        active = tap >= 0
        row = tap // 4
        source = ((row // num_joints).to(tl.int64) * batch + image) * num_joints + row % num_joints
        grad = grad_features + source[:, None] * PADDED_CHANNELS + (first + channel)[None, :]
        grad = tl.load(grad, mask=active[:, None] & in_channels, other=0.0).to(tl.float32)
        acc += tl.load(weights + tap, mask=active, other=0.0)[:, None] * grad
        tap = tl.load(following + tap, mask=active, other=-1)
    grad_map += image * num_cells * CHANNELS
    tl.store(
        grad_map + cell.to(tl.int64)[:, None] * CHANNELS + channel[None, :],
        acc.to(grad_map.dtype.element_ty),
        mask=(cell >= 0)[:, None] & in_channels,
    )
