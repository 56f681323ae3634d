"""The kernels of ``pose_scores`` in Triton, all in float32.

Forward: a program scores a block of poses of one image, whose rotations and translations stay in registers, and takes the points
in turns, a warp for two of them. The lanes of a warp are poses under one point: the point's coordinates are one broadcast load,
and the 32 gathers of a tap go to one map, whose 28 x 28 cells are 3 KB of L1. Of these gathers none is contiguous, so what they
cost is cache lines, and poses that are tried around one pose share theirs. The surface's four channels lie together: a tap
of them is one load of 16 bytes instead of four gathers. Programs of one image are neighbours in the grid: its maps, 0.4 MB, come
from L2 for all but the first.

Backward: without atomics. A cell's share in a bilinear sample is max(0, 1 - |y - v|) max(0, 1 - |x - u|), for cells outside of
the four taps 0. So the sum over the poses k of g_k times the shares is a product of matrices, [rows, poses] x [poses, columns],
which the tensor cores add in a fixed order: 28 x 28 multiply-adds a pose where a scatter has four, but no two threads write to
one cell. A program owns the maps' gradients of a few points and a part of the surface's; the host adds the parts up.

Where a number of a pose is NaN its image's gradients are NaN in all cells, not in those of its taps alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

# as in reference.py
NEAREST_DEPTH = tl.constexpr(1e-3)
SMALLEST_SQUARE = tl.constexpr(1e-12)
LEAST_FACING = tl.constexpr(0.1)
STEEPNESS = tl.constexpr(12.0)
PER_RIM_SQUARE = tl.constexpr(25.0)  # 1 / RIM^2


@triton.jit
def load3(at):
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit
def load_pose(rotation, translation, pose):
    """The rotation's rows and the translation."""
    r = rotation + pose * 9
    return load3(r), load3(r + 3), load3(r + 6), load3(translation + pose * 3)


@triton.jit
def load_camera(intrinsics, scale_x, scale_y):
    """A point's place among the cells is camera (x / z, y / z, 1): the row of x, the row of y."""
    a, b, c = load3(intrinsics)
    d, e, f = load3(intrinsics + 3)
    row_x = (a * scale_x, b * scale_x, (c + 0.5) * scale_x - 0.5)
    row_y = (d * scale_y, e * scale_y, (f + 0.5) * scale_y - 0.5)
    return row_x, row_y


@triton.jit
def dot3(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def seen_under(pose, point, normal):
    """Position and normal in the camera's frame, the cosine to the camera, and what the point counts."""
    x = (dot3(pose[0], point) + pose[3][0], dot3(pose[1], point) + pose[3][1], dot3(pose[2], point) + pose[3][2])
    m = (dot3(pose[0], normal), dot3(pose[1], normal), dot3(pose[2], normal))
    square = dot3(x, x)
    square = tl.where(square < SMALLEST_SQUARE, SMALLEST_SQUARE, square)  # NaN stays
    facing = -dot3(x, m) / tl.sqrt(square)
    weight = 1.0 / (1.0 + tl.exp((facing - LEAST_FACING) * -STEEPNESS))
    return x, m, facing, weight


@triton.jit
def at_rim(facing):
    return tl.exp(-facing * facing * PER_RIM_SQUARE)


@triton.jit
def inside(place, SIZE: tl.constexpr):
    """The place along one axis, moved to the nearest cell of the border; 0 where it is NaN."""
    place = tl.where(place > 0.0, place, 0.0)
    return tl.where(place < SIZE - 1.0, place, SIZE - 1.0)


@triton.jit
def place_of(x, camera, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Column and row, fractions of cells included, of positions in the camera's frame."""
    z = tl.where(x[2] < NEAREST_DEPTH, NEAREST_DEPTH, x[2])
    ray = (x[0] / z, x[1] / z)
    column = ray[0] * camera[0][0] + ray[1] * camera[0][1] + camera[0][2]
    row = ray[0] * camera[1][0] + ray[1] * camera[1][1] + camera[1][2]
    return inside(column, WIDTH), inside(row, HEIGHT)


@triton.jit
def forward_kernel(
    colour,  # [B, N, HEIGHT, WIDTH]
    surface,  # [B, HEIGHT, WIDTH, 4]
    points,  # [B, N, 3]
    normals,  # [B, N, 3]
    rotation,  # [B, K, 3, 3]
    translation,  # [B, K, 3]
    intrinsics,  # [B, 3, 3]
    scores,  # [B, K], out
    num_points,
    num_poses,
    scale_x,  # cells per pixel
    scale_y,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_POSES: tl.constexpr,
):
    blocks = tl.cdiv(num_poses, BLOCK_POSES)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK_POSES
    # one axis for points and poses: of two, some versions of Triton would lay lanes along the points
    lane = tl.arange(0, BLOCK_POINTS * BLOCK_POSES)
    known = tl.minimum(first + lane % BLOCK_POSES, num_poses - 1)  # the last one is repeated
    held = load_pose(rotation + image * num_poses * 9, translation + image * num_poses * 3, known)
    camera = load_camera(intrinsics + image * 9, scale_x, scale_y)
    surface += image * (HEIGHT * WIDTH * 4)
    channel = tl.arange(0, 4)[None, :]
    score_sum = tl.zeros([BLOCK_POINTS * BLOCK_POSES], tl.float32)
    weight_sum = tl.zeros([BLOCK_POINTS * BLOCK_POSES], tl.float32)
    for start in range(0, num_points, BLOCK_POINTS):
        n = start + lane // BLOCK_POSES
        counts = n < num_points
        at_point = image * num_points + tl.minimum(n, num_points - 1)
        x, m, facing, weight = seen_under(held, load3(points + at_point * 3), load3(normals + at_point * 3))
        place_x, place_y = place_of(x, camera, HEIGHT, WIDTH)
        column, row = place_x.to(tl.int32), place_y.to(tl.int32)
        fx, fy = place_x - column, place_y - row
        # at the border a tap of share 0 is that of the cell itself
        right = tl.where(column < WIDTH - 1, 1, 0)
        down = tl.where(row < HEIGHT - 1, WIDTH, 0)
        cell = row * WIDTH + column
        share = ((1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy)
        tap = (cell, cell + right, cell + down, cell + down + right)

        own = colour + at_point * (HEIGHT * WIDTH)
        score = tl.load(own + tap[0]) * share[0]
        shown = tl.load(surface + (tap[0] * 4)[:, None] + channel) * share[0][:, None]
        for i in tl.static_range(1, 4):
            score += tl.load(own + tap[i]) * share[i]
            shown += tl.load(surface + (tap[i] * 4)[:, None] + channel) * share[i][:, None]
        # m and what the rim counts, channels last
        wanted = tl.join(tl.join(m[0], m[2]), tl.join(m[1], at_rim(facing)))
        score += tl.sum(shown * wanted.reshape(BLOCK_POINTS * BLOCK_POSES, 4), axis=1)
        score_sum += tl.where(counts, score * weight, 0.0)
        weight_sum += tl.where(counts, weight, 0.0)
    total = tl.sum(weight_sum.reshape(BLOCK_POINTS, BLOCK_POSES), axis=0)
    score = tl.sum(score_sum.reshape(BLOCK_POINTS, BLOCK_POSES), axis=0) / tl.where(total < 1.0, 1.0, total)
    pose = first + tl.arange(0, BLOCK_POSES)
    tl.store(scores + image * num_poses + pose, score, mask=pose < num_poses)


@triton.jit
def grad_sums_kernel(
    grad_scores,  # [B, K]
    points,
    normals,
    rotation,
    translation,
    grad_sums,  # [B, K], out: the gradient of the sum over the points, before it is divided
    num_points,
    num_poses,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_POSES: tl.constexpr,
):
    blocks = tl.cdiv(num_poses, BLOCK_POSES)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pose = tl.program_id(0) % blocks * BLOCK_POSES + tl.arange(0, BLOCK_POSES)[None, :]
    known = tl.minimum(pose, num_poses - 1)
    held = load_pose(rotation + image * num_poses * 9, translation + image * num_poses * 3, known)
    weight_sum = tl.zeros([BLOCK_POINTS, BLOCK_POSES], tl.float32)
    for start in range(0, num_points, BLOCK_POINTS):
        n = start + tl.arange(0, BLOCK_POINTS)[:, None]
        at_point = image * num_points + tl.minimum(n, num_points - 1)
        _, _, _, weight = seen_under(held, load3(points + at_point * 3), load3(normals + at_point * 3))
        weight_sum += tl.where(n < num_points, weight, 0.0)
    total = tl.sum(weight_sum, axis=0, keep_dims=True)
    gradient = tl.load(grad_scores + image * num_poses + known) / tl.where(total < 1.0, 1.0, total)
    tl.store(grad_sums + image * num_poses + pose, gradient, mask=pose < num_poses)


@triton.jit
def product(a, b, total):
    """total + a b^T: float32 factors as three tf32 products."""
    return tl.dot(a, b.T, total, input_precision="tf32x3")


@triton.jit
def gradient_kernel(
    grad_sums,  # [B, K]
    points,
    normals,
    rotation,
    translation,
    intrinsics,
    grad_colour,  # [B, N, HEIGHT, WIDTH], out
    parts,  # [B, groups of points, 4, HEIGHT, WIDTH], out: the surface's gradient is their sum
    num_points,
    num_poses,
    scale_x,
    scale_y,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,  # points a program
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_POSES: tl.constexpr,
):
    groups = tl.cdiv(num_points, GROUP)
    image = (tl.program_id(0) // groups).to(tl.int64)
    group = tl.program_id(0) % groups
    across: tl.constexpr = (WIDTH + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    row = tl.program_id(1) // across * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    first = tl.program_id(1) % across * BLOCK_COLUMNS
    column, columns = first + tl.arange(0, BLOCK_COLUMNS)[None, :], first + tl.arange(0, BLOCK_COLUMNS)[:, None]
    in_map = (row < HEIGHT) & (column < WIDTH)
    cell = row * WIDTH + column
    camera = load_camera(intrinsics + image * 9, scale_x, scale_y)
    rotation += image * num_poses * 9
    translation += image * num_poses * 3
    grad_sums += image * num_poses
    grad_x = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    grad_y = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    grad_z = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    grad_rim = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for n in range(group * GROUP, tl.minimum(group * GROUP + GROUP, num_points)):
        at_point = image * num_points + n
        point, normal = load3(points + at_point * 3), load3(normals + at_point * 3)
        own = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        for start in range(0, num_poses, BLOCK_POSES):
            pose = start + tl.arange(0, BLOCK_POSES)[None, :]
            held = load_pose(rotation, translation, tl.minimum(pose, num_poses - 1))
            x, m, facing, weight = seen_under(held, point, normal)
            place_x, place_y = place_of(x, camera, HEIGHT, WIDTH)
            gradient = tl.load(grad_sums + pose, mask=pose < num_poses, other=0.0) * weight
            # poses run along the second axis of both factors: each thread then sees one pose, not one for every row
            shares_y = tl.maximum(1.0 - tl.abs(row - place_y), 0.0)
            shares_x = tl.maximum(1.0 - tl.abs(columns - place_x), 0.0) * gradient
            own = product(shares_y, shares_x, own)
            grad_x = product(shares_y, shares_x * m[0], grad_x)
            grad_y = product(shares_y, shares_x * m[1], grad_y)
            grad_z = product(shares_y, shares_x * m[2], grad_z)
            grad_rim = product(shares_y, shares_x * at_rim(facing), grad_rim)
        tl.store(grad_colour + at_point * (HEIGHT * WIDTH) + cell, own, mask=in_map)
    part = parts + (image * groups + group) * (4 * HEIGHT * WIDTH) + cell
    tl.store(part, grad_x, mask=in_map)
    tl.store(part + HEIGHT * WIDTH, grad_y, mask=in_map)
    tl.store(part + 2 * HEIGHT * WIDTH, grad_z, mask=in_map)
    tl.store(part + 3 * HEIGHT * WIDTH, grad_rim, mask=in_map)
