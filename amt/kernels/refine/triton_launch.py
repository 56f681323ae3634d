"""Host side of the Triton kernels of ``refine``: buffers, and the order of the launches."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels.refine.native import NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS
from amt.kernels.refine.triton_backward import (
    feature_gradient_kernel,
    joint_gradient_kernel,
    mlp_backward_kernel,
    weight_gradient_kernel,
)
from amt.kernels.refine.triton_map_gradient import locate_kernel, map_gradient_kernel
from amt.kernels.refine.triton_problem import Problem, divisor, launch, power_of_two
from amt.kernels.refine.triton_single import single_kernel
from amt.kernels.refine.triton_two_kernel import mlp_kernel

FORMS = ("two_kernel", "single")
ROWS_PER_SPLIT = 1024  # of the weight gradient: by shape alone, so that every card adds in the same order


def choose_form(rows: int) -> str:
    """The form that ``auto`` takes for ``rows`` = B J projections; counted, not yet measured on a card.

    The single kernel hides the taps behind few blocks of 64 rows, the gather kernel behind one of 8; where there are too few
    rows to fill a card either way, the launch and the buffer that the single kernel saves are worth more.
    """
    return "single" if rows <= 2048 else "two_kernel"


def forward(
    joints: Tensor,
    intrinsics: Tensor,
    maps: list[Tensor],
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    height: int,
    width: int,
    step_size: float,
    form: str,
) -> Tensor:  # [B, S, J, 3]
    """Every step's joints, by the kernels of ``form``."""
    problem = Problem(joints, intrinsics, maps, w1, b1, w2, b2, height, width)
    num_steps, num_joints = problem.num_steps, problem.num_joints
    steps = torch.empty(problem.batch, num_steps, num_joints, 3, dtype=joints.dtype, device=joints.device)
    if problem.rows == 0:
        return steps
    if form == "auto":
        form = choose_form(problem.rows)
    features = problem.features() if form == "two_kernel" else None
    for k in range(num_steps):
        entering, image_stride = (problem.joints, num_joints * 3) if k == 0 else (steps[:, k - 1], steps.stride(0))
        step = (*problem.weights(k), problem.b2[k], entering, image_stride, steps[:, k], steps.stride(0))
        step = (*step, problem.rows, num_joints, step_size / 2**k)
        blocks = problem.table["mlp" if form == "two_kernel" else "single"]
        constants = {
            "CHANNELS_TOTAL": problem.channels_total,
            "PADDED_CHANNELS": problem.padded_channels,
            "HIDDEN": problem.hidden,
            "BLOCK_ROWS": blocks.rows,
            "BLOCK_HIDDEN": problem.hidden_block(blocks),
            "BLOCK_CHANNELS": blocks.channels,
            "UPCAST": problem.upcast,
        }
        grid = (triton.cdiv(problem.rows, blocks.rows),)
        if form == "two_kernel":
            problem.gather(entering, image_stride, features)
            launch(mlp_kernel, grid, features, *step, blocks=blocks, **constants)
        else:
            arguments = (*problem.geometry, problem.intrinsics, *step)
            launch(single_kernel, grid, *arguments, blocks=blocks, CHANNELS=problem.channels, **constants)
    return steps


def backward(
    gradient: Tensor,
    steps: Tensor,
    joints: Tensor,
    intrinsics: Tensor,
    maps: list[Tensor],
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    height: int,
    width: int,
    step_size: float,
    detach: bool,
    needs: int,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Gradients of joints, intrinsics, maps, w1, b1, w2, b2; those that ``needs`` leaves out are empty: [0], and no maps."""
    problem = Problem(joints, intrinsics, maps, w1, b1, w2, b2, height, width)
    num_steps, rows = problem.num_steps, problem.rows
    device = joints.device
    of_weights = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in (w1, b1, w2, b2)]
    of_maps = [m.new_zeros(m.shape) for m in maps] if needs & NEEDS_MAPS else []
    of_intrinsics = torch.zeros_like(intrinsics, memory_format=torch.contiguous_format)
    if rows == 0:
        return _leave_out(needs, torch.zeros_like(joints), of_intrinsics, of_maps, of_weights)

    gradient = gradient.contiguous()
    # the joints that enter each step, [B, S, J, 3]
    entering = torch.cat([problem.joints[:, None], steps[:, :-1]], dim=1)
    image_stride = entering.stride(0)
    features = problem.features()
    grad_features = torch.empty(num_steps, rows, problem.padded_channels, dtype=problem.dtype, device=device)
    grad_hidden = torch.empty(rows, problem.padded_hidden, dtype=problem.dtype, device=device)
    grad_relative = torch.empty(rows, 3, dtype=torch.float32, device=device)
    through = not detach  # gradients pass from a step to the one before it
    carried = None
    for k in reversed(range(num_steps)):
        leaving = gradient[:, k].reshape(rows, 3)
        if carried is not None:
            leaving = leaving + carried
        grad_offset = leaving * (step_size / 2**k)
        problem.gather(entering[:, k], image_stride, features)
        partial = _mlp_backward(problem, k, features, entering[:, k], grad_offset, grad_hidden, grad_relative)
        if needs & NEEDS_WEIGHTS:
            _weight_gradient(problem, k, features, grad_offset, grad_hidden, partial, of_weights)
        carried = None
        if needs & (NEEDS_MAPS | NEEDS_COORDINATES) or (through and k > 0):
            _feature_gradient(problem, k, grad_hidden, grad_features[k])
        if needs & NEEDS_COORDINATES or (through and k > 0):
            moved = _joint_gradient(
                problem, entering[:, k], image_stride, grad_features[k], grad_relative, leaving, of_intrinsics
            )
            if through or k == 0:
                carried = moved
    if of_maps:
        _map_gradients(problem, entering, grad_features, of_maps)
    of_joints = carried.view(joints.shape) if needs & NEEDS_COORDINATES else joints
    return _leave_out(needs, of_joints, of_intrinsics, of_maps, of_weights)


def _leave_out(needs, of_joints, of_intrinsics, of_maps, of_weights):
    def keep(tensor: Tensor, bit: int) -> Tensor:
        return tensor if needs & bit else tensor.new_empty(0)

    coordinates = (keep(of_joints, NEEDS_COORDINATES), keep(of_intrinsics, NEEDS_COORDINATES))
    return (*coordinates, of_maps, *(keep(w, NEEDS_WEIGHTS) for w in of_weights))


def _mlp_backward(problem, k, features, entering, grad_offset, grad_hidden, grad_relative) -> Tensor:
    blocks = problem.table["mlp_backward"]
    num_blocks = triton.cdiv(problem.rows, blocks.rows)
    partial = torch.empty(num_blocks, 6, problem.hidden, dtype=torch.float32, device=features.device)
    launch(
        mlp_backward_kernel,
        (num_blocks,),
        features,
        *problem.weights(k),
        entering,
        entering.stride(0),
        grad_offset,
        grad_hidden,
        grad_relative,
        partial,
        problem.rows,
        problem.num_joints,
        blocks=blocks,
        CHANNELS_TOTAL=problem.channels_total,
        PADDED_CHANNELS=problem.padded_channels,
        HIDDEN=problem.hidden,
        PADDED_HIDDEN=problem.padded_hidden,
        BLOCK_ROWS=blocks.rows,
        BLOCK_HIDDEN=problem.hidden_block(blocks),
        BLOCK_CHANNELS=blocks.channels,
        UPCAST=problem.upcast,
    )
    return partial


def _feature_gradient(problem, k, grad_hidden, grad_features) -> None:
    blocks = problem.table["feature_gradient"]
    block_channels = divisor(problem.padded_channels, blocks.channels)
    launch(
        feature_gradient_kernel,
        (triton.cdiv(problem.rows, blocks.rows), problem.padded_channels // block_channels),
        grad_hidden,
        problem.packed[k],
        grad_features,
        problem.rows,
        blocks=blocks,
        PADDED_CHANNELS=problem.padded_channels,
        PADDED_HIDDEN=problem.padded_hidden,
        BLOCK_ROWS=blocks.rows,
        BLOCK_HIDDEN=problem.hidden_block(blocks),
        BLOCK_CHANNELS=block_channels,
        UPCAST=problem.upcast,
    )


def _weight_gradient(problem, k, features, grad_offset, grad_hidden, partial, of_weights) -> None:
    blocks = problem.table["weight_gradient"]
    block_hidden = problem.hidden_block(blocks)
    block_channels = divisor(problem.padded_channels, blocks.channels)
    splits = triton.cdiv(problem.rows, ROWS_PER_SPLIT)
    shape = (splits, problem.padded_hidden, problem.padded_channels)
    parts = torch.empty(shape, dtype=torch.float32, device=features.device)
    launch(
        weight_gradient_kernel,
        (problem.padded_hidden // block_hidden, problem.padded_channels // block_channels, splits),
        grad_hidden,
        features,
        parts,
        problem.rows,
        ROWS_PER_SPLIT,
        blocks=blocks,
        PADDED_CHANNELS=problem.padded_channels,
        PADDED_HIDDEN=problem.padded_hidden,
        BLOCK_ROWS=blocks.rows,
        BLOCK_HIDDEN=block_hidden,
        BLOCK_CHANNELS=block_channels,
        UPCAST=problem.upcast,
    )
    of_w1, of_b1, of_w2, of_b2 = of_weights
    channels, hidden = problem.channels_total, problem.hidden
    sums = partial.sum(dim=0)
    of_w1[k, :, :channels] = parts.sum(dim=0)[:hidden, :channels]
    of_w1[k, :, channels:] = sums[3:].T
    of_w2[k] = sums[:3]
    per_joint = grad_hidden.view(problem.batch, problem.num_joints, problem.padded_hidden)[..., :hidden]
    of_b1[k] = per_joint.sum(dim=0, dtype=torch.float32)
    of_b2[k] = grad_offset.sum(dim=0)


def _joint_gradient(problem, entering, image_stride, grad_features, grad_relative, leaving, of_intrinsics) -> Tensor:
    blocks = problem.table["joint_gradient"]
    block_joints = power_of_two(problem.num_joints)
    moved = torch.empty(problem.rows, 3, dtype=torch.float32, device=entering.device)
    launch(
        joint_gradient_kernel,
        (problem.batch,),
        *problem.geometry,
        entering,
        image_stride,
        problem.intrinsics,
        grad_features,
        grad_relative,
        leaving,
        moved,
        of_intrinsics,
        problem.num_joints,
        blocks=blocks,
        CHANNELS=problem.channels,
        PADDED_CHANNELS=problem.padded_channels,
        BLOCK_JOINTS=block_joints,
        BLOCK_CHANNELS=min(max(16, blocks.channels * 32 // block_joints), power_of_two(max(problem.channels))),
    )
    return moved


def _map_gradients(problem, entering, grad_features, of_maps) -> None:
    count = problem.num_steps * problem.num_joints
    total = problem.batch * count
    shape = (len(of_maps), problem.batch, count, 4)
    cells = torch.empty(shape, dtype=torch.int32, device=entering.device)
    weights = torch.empty(shape, dtype=torch.float32, device=entering.device)
    blocks = problem.table["locate"]
    launch(
        locate_kernel,
        (triton.cdiv(total, blocks.rows),),
        problem.sizes,
        problem.scales,
        entering,
        problem.intrinsics,
        cells,
        weights,
        total,
        count,
        blocks=blocks,
        NUM_MAPS=len(of_maps),
        BLOCK_ROWS=blocks.rows,
    )
    blocks = problem.table["map_gradient"]
    for l, of_map in enumerate(of_maps):
        if of_map.numel() == 0:
            continue
        block_channels = min(blocks.channels, power_of_two(problem.channels[l]))
        launch(
            map_gradient_kernel,
            (problem.batch, 4 * triton.cdiv(count, blocks.rows), triton.cdiv(problem.channels[l], block_channels)),
            cells[l],
            weights[l],
            grad_features,
            of_map,
            of_map.shape[1] * of_map.shape[2],
            problem.batch,
            problem.num_joints,
            count,
            sum(problem.channels[:l]),
            blocks=blocks,
            CHANNELS=problem.channels[l],
            PADDED_CHANNELS=problem.padded_channels,
            BLOCK_ROWS=blocks.rows,
            BLOCK_CHANNELS=block_channels,
            SPLIT=problem.dtype.itemsize == 2 and not problem.upcast,
            UPCAST=problem.upcast,
        )
