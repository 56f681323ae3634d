"""``pose_scores`` in Triton, for a GPU: launches and custom ops."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels import _triton
from amt.kernels._plans import planned
from amt.kernels.pose_scores import autograd, triton_kernels
from amt.kernels.pose_scores.reference import SURFACE_CHANNELS

POINTS, POSES, WARPS = 16, 32, 8  # of a block; a warp's lanes are the poses
GROUP, GRADIENT_POSES, GRADIENT_WARPS = 4, 16, 4  # points a program, and poses a product, of the gradient
MOST_SIDE = 32  # cells of a map, down or across, in a program of the gradient
MOST_CELLS = 1 << 24  # of a map: numbers of rows and columns are exact in float32, those of taps in int32

_GEOMETRY = (
    "Tensor points, Tensor normals, Tensor rotation, Tensor translation, Tensor intrinsics, int height, int width"
)
_OP, _BACKWARD = "amt::pose_scores_triton", "amt::pose_scores_triton_backward"
torch.library.define(_OP, f"(Tensor colour, Tensor surface, {_GEOMETRY}) -> Tensor")
torch.library.define(_BACKWARD, f"(Tensor grad_scores, {_GEOMETRY}, int map_height, int map_width) -> (Tensor, Tensor)")


def pose_scores(colour, surface, points, normals, rotation, translation, intrinsics, image_size) -> Tensor:
    """As ``amt.kernels.pose_scores``, on CUDA tensors (and on the CPU in Triton's interpreter), in float32.

    Raises:
        ValueError: maps of more than 2^24 cells.
    """
    height, width = colour.shape[2:]
    if height * width > MOST_CELLS:
        raise ValueError(
            f"pose_scores: the Triton kernel takes maps of at most {MOST_CELLS} cells, got {height} x {width}; "
            'use amt.kernels.use("reference")'
        )
    op = torch.ops.amt.pose_scores_triton.default
    return autograd.call(op, colour, surface, points, normals, rotation, translation, intrinsics, *image_size)


def forward(colour, surface, points, normals, rotation, translation, intrinsics, height, width) -> Tensor:
    (batch, num_points, rows, columns), num_poses = colour.shape, rotation.shape[1]
    if num_points == 0:
        return points.new_zeros(batch, num_poses)
    scores = points.new_empty(batch, num_poses)
    if scores.numel():
        with torch.cuda.device_of(points):
            surface = surface.permute(0, 2, 3, 1)
            inputs = (colour, surface, points, normals, rotation, translation, intrinsics)
            inputs = tuple(t.contiguous() for t in inputs)
            launch = _triton.launcher(("pose_scores", *map(_triton.signature, inputs)))
            launch(
                triton_kernels.forward_kernel,
                (batch * triton.cdiv(num_poses, POSES),),
                *inputs,
                scores,
                num_points,
                num_poses,
                columns / width,
                rows / height,
                warps=WARPS,
                HEIGHT=rows,
                WIDTH=columns,
                BLOCK_POINTS=POINTS,
                BLOCK_POSES=POSES,
            )
    return scores


def backward(
    grad_scores, points, normals, rotation, translation, intrinsics, height, width, rows, columns
) -> tuple[Tensor, Tensor]:
    (batch, num_points), num_poses = points.shape[:2], rotation.shape[1]
    if not batch * num_points * num_poses:
        sizes = (batch, num_points, rows, columns), (batch, SURFACE_CHANNELS, rows, columns)
        return points.new_zeros(sizes[0]), points.new_zeros(sizes[1])
    groups = triton.cdiv(num_points, GROUP)
    grad_colour = points.new_empty(batch, num_points, rows, columns)
    parts = points.new_empty(batch, groups, SURFACE_CHANNELS, rows, columns)
    grad_sums = points.new_empty(batch, num_poses)
    block_rows, block_columns = (min(MOST_SIDE, max(16, triton.next_power_of_2(n))) for n in (rows, columns))
    tiles = triton.cdiv(rows, block_rows) * triton.cdiv(columns, block_columns)
    with torch.cuda.device_of(points):
        inputs = (grad_scores, points, normals, rotation, translation, intrinsics)
        grad_scores, *geometry = (t.contiguous() for t in inputs)
        signatures = map(_triton.signature, (grad_scores, *geometry))
        launch = _triton.launcher(("pose_scores_backward", rows, columns, *signatures))
        launch(
            triton_kernels.grad_sums_kernel,
            (batch * triton.cdiv(num_poses, POSES),),
            grad_scores,
            *geometry[:4],
            grad_sums,
            num_points,
            num_poses,
            warps=WARPS,
            BLOCK_POINTS=POINTS,
            BLOCK_POSES=POSES,
        )
        launch(
            triton_kernels.gradient_kernel,
            (batch * groups, tiles),
            grad_sums,
            *geometry,
            grad_colour,
            parts,
            num_points,
            num_poses,
            columns / width,
            rows / height,
            warps=GRADIENT_WARPS
            * (1 + columns % 2),  # rows of an odd length are stored cell by cell: more addresses to hold
            HEIGHT=rows,
            WIDTH=columns,
            GROUP=GROUP,
            BLOCK_ROWS=block_rows,
            BLOCK_COLUMNS=block_columns,
            BLOCK_POSES=GRADIENT_POSES,
        )
    return grad_colour, parts.sum(1)  # in a fixed order


_forward = planned("pose_scores", rebuild=lambda results: results[0])(forward)
_backward = planned("pose_scores backward")(backward)
torch.library.impl(_OP, "CompositeExplicitAutograd", _forward)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _backward)
autograd.register(_OP, _BACKWARD)
