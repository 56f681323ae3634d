"""Host side of the Triton kernels of ``refine``: buffers, and the order of the launches."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels._triton import aligned
from amt.kernels.refine.native import NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS
from amt.kernels.refine.triton_backward import (
    feature_gradient_kernel,
    joint_gradient_kernel,
    mlp_backward_kernel,
    weight_gradient_kernel,
    weights_kernel,
)
from amt.kernels.refine.triton_map_gradient import link_kernel, locate_kernel, map_gradient_kernel
from amt.kernels.refine.triton_problem import Problem, ceil_div, divisor, power_of_two
from amt.kernels.refine.triton_single import single_kernel
from amt.kernels.refine.triton_two_kernel import mlp_kernel

FORMS = ("two_kernel", "single")
ROWS_PER_SPLIT = 1024  # of the weight gradient: by shape alone, so that every card adds in the same order


def choose_form(rows: int) -> str:
    """The form that ``auto`` takes for ``rows`` = B J projections.

    On an H200 the single kernel, in blocks of 16 rows, takes 32 to 36 µs for two steps up to 64 images, the two kernels 38; at
    512 images it is 178 against 110.
    """
    return "single" if rows <= 2048 else "two_kernel"


def at(tensor: Tensor, *index) -> Tensor:
    """``tensor[index]`` for a launch, which reads its address alone: the tensor itself at step 0, views cost the host time."""
    return tensor[index] if index[-1] else tensor


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
    layout, num_joints = problem.layout, problem.num_joints
    steps = problem.empty(problem.batch, layout.num_steps, num_joints, 3, dtype=joints.dtype)
    if problem.rows == 0:
        return steps
    if form == "auto":
        form = choose_form(problem.rows)
    two_kernel = form == "two_kernel"
    features = problem.empty(1, problem.rows, layout.padded_channels, dtype=problem.dtype) if two_kernel else None
    blocks = problem.table["mlp" if two_kernel else "single"]
    grid = (ceil_div(problem.rows, blocks.rows),)
    constants = {
        "CHANNELS_TOTAL": layout.channels_total,
        "PADDED_CHANNELS": layout.padded_channels,
        "HIDDEN": layout.hidden,
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_HIDDEN": problem.hidden_block(blocks),
        "BLOCK_CHANNELS": blocks.channels,
        "UPCAST": layout.upcast,
    }
    of_image = num_joints * 3
    for k in range(layout.num_steps):
        entering, image_stride = (
            (problem.joints, of_image) if k == 0 else (steps[:, k - 1], layout.num_steps * of_image)
        )
        step = (
            at(problem.packed, k),
            at(problem.w1, k),
            at(problem.b1, k),
            at(problem.w2, k),
            at(problem.b2, k),
            entering,
            image_stride,
            at(steps, slice(None), k),
            layout.num_steps * of_image,
            problem.rows,
            num_joints,
            step_size / 2**k,
        )
        if two_kernel:
            problem.gather(entering, (image_stride, 0), features, slot=("forward", k))
            problem.launch(mlp_kernel, grid, features, *step, blocks=blocks, slot=(k,), **constants)
        else:
            arguments = (*problem.geometry, problem.intrinsics, *step)
            channels = {"CHANNELS": layout.channels}
            problem.launch(single_kernel, grid, *arguments, blocks=blocks, slot=(k,), **channels, **constants)
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
    of_maps = [torch.zeros(m.shape, dtype=m.dtype, device=m.device) for m in maps] if needs & NEEDS_MAPS else []
    if problem.rows == 0:
        zeros = [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (joints, intrinsics, w1, b1, w2, b2)]
        return _leave_out(needs, zeros[0], zeros[1], of_maps, zeros[2:])
    sweep = _Backward(problem, gradient.contiguous(), steps, step_size, detach)
    coordinates = needs & NEEDS_COORDINATES
    for k, count in sweep.passes():
        through = not detach and k > 0  # gradients pass from this step to the one before it
        sweep.mlp(k, count)
        if needs & NEEDS_WEIGHTS:
            sweep.weight_parts(k, count)
        if needs & (NEEDS_MAPS | NEEDS_COORDINATES) or through:
            sweep.features(k, count)
        if coordinates or through:
            sweep.joints(k, count)
    if of_maps:
        sweep.maps(of_maps)
    of_weights = sweep.weights(w1, b1, w2, b2) if needs & NEEDS_WEIGHTS else (w1, b1, w2, b2)
    of_joints = sweep.grad_entering[0].view(joints.shape) if coordinates else joints
    of_intrinsics = sweep.grad_intrinsics.sum(dim=0) if coordinates else intrinsics
    return _leave_out(needs, of_joints, of_intrinsics, of_maps, of_weights)


def _leave_out(needs, of_joints, of_intrinsics, of_maps, of_weights):
    def keep(tensor: Tensor, bit: int) -> Tensor:
        return tensor if needs & bit else tensor.new_empty(0)

    coordinates = (keep(of_joints, NEEDS_COORDINATES), keep(of_intrinsics, NEEDS_COORDINATES))
    return (*coordinates, of_maps, *(keep(w, NEEDS_WEIGHTS) for w in of_weights))


class _Backward:
    """One backward pass: its buffers, [S, ...] in the order of the steps, and the launches that fill them.

    The methods that take ``k`` and ``count`` handle steps k .. k + count - 1 in one launch.
    """

    def __init__(self, problem: Problem, gradient: Tensor, steps: Tensor, step_size: float, detach: bool):
        self.problem, self.gradient, self.step_size = problem, gradient, step_size
        layout = problem.layout
        self.num_steps, self.rows, self.detach = layout.num_steps, problem.rows, detach
        self.slot = (aligned(gradient), detach)
        # the joints that enter each step, [B, S, J, 3]
        self.entering = torch.cat([problem.joints[:, None], steps[:, :-1]], dim=1)
        self.of_step = problem.num_joints * 3
        self.of_image = self.num_steps * self.of_step
        at_once = self.num_steps if detach else 1
        self.features_read = problem.empty(at_once, self.rows, layout.padded_channels, dtype=problem.dtype)
        self.grad_features = problem.empty(self.num_steps, self.rows, layout.padded_channels, dtype=problem.dtype)
        self.grad_hidden = problem.empty(self.num_steps, self.rows, layout.padded_hidden, dtype=problem.dtype)
        self.grad_relative = problem.empty(self.num_steps, self.rows, 3)
        self.grad_entering = problem.empty(self.num_steps, self.rows, 3)
        self.grad_intrinsics = problem.empty(self.num_steps, problem.batch, 3, 3)
        self.row_blocks = ceil_div(self.rows, problem.table["mlp_backward"].rows)
        self.splits = ceil_div(self.rows, ROWS_PER_SPLIT)
        self.width = max(layout.hidden, 16)  # of a row of `partial`: as many units, and b2's three
        self.partial = problem.empty(self.num_steps, self.row_blocks, 7, self.width)
        self.parts = None

    def passes(self) -> list[tuple[int, int]]:
        """(first step, steps at once): all of them, or one after another from the last."""
        return [(0, self.num_steps)] if self.detach else [(k, 1) for k in reversed(range(self.num_steps))]

    def _launch(self, kernel, grid, *arguments, k: int, **rest) -> None:
        self.problem.launch(kernel, grid, *arguments, slot=(*self.slot, k), **rest)

    def _carried(self, k: int) -> tuple[Tensor, bool]:
        carried = not self.detach and k + 1 < self.num_steps
        return (self.grad_entering[k + 1] if carried else self.gradient), carried

    def mlp(self, k: int, count: int) -> None:
        """Features and pre-activations again; the gradient of the latter."""
        problem, layout = self.problem, self.problem.layout
        blocks = problem.table["mlp_backward"]
        entering = at(self.entering, slice(None), k)
        problem.gather(entering, (self.of_image, self.of_step), self.features_read, slot=("backward", k))
        carried, has_carried = self._carried(k)
        self._launch(
            mlp_backward_kernel,
            (self.row_blocks, count),
            self.features_read,
            at(problem.packed, k),
            problem.packed.stride(0),
            at(problem.w1, k),
            problem.w1.stride(0),
            at(problem.b1, k),
            at(problem.w2, k),
            entering,
            self.of_image,
            self.of_step,
            at(self.gradient, slice(None), k),
            carried,
            self.step_size / 2**k,
            at(self.grad_hidden, k),
            at(self.grad_relative, k),
            at(self.partial, k),
            self.rows,
            problem.num_joints,
            k=k,
            blocks=blocks,
            CHANNELS_TOTAL=layout.channels_total,
            PADDED_CHANNELS=layout.padded_channels,
            HIDDEN=layout.hidden,
            PADDED_HIDDEN=layout.padded_hidden,
            WIDTH=self.width,
            BLOCK_ROWS=blocks.rows,
            BLOCK_HIDDEN=problem.hidden_block(blocks),
            BLOCK_CHANNELS=blocks.channels,
            CARRIED=has_carried,
            UPCAST=layout.upcast,
        )

    def weight_parts(self, k: int, count: int) -> None:
        """w1's gradient, without its relative columns, by parts of the rows."""
        problem, layout = self.problem, self.problem.layout
        if self.parts is None:
            self.parts = problem.empty(self.num_steps, self.splits, layout.padded_hidden, layout.padded_channels)
        blocks = problem.table["weight_gradient"]
        block_hidden = problem.hidden_block(blocks)
        block_channels = divisor(layout.padded_channels, blocks.channels)
        self._launch(
            weight_gradient_kernel,
            (layout.padded_hidden // block_hidden, layout.padded_channels // block_channels, self.splits * count),
            at(self.grad_hidden, k),
            self.features_read,
            at(self.parts, k),
            self.rows,
            ROWS_PER_SPLIT,
            self.splits,
            k=k,
            blocks=blocks,
            PADDED_CHANNELS=layout.padded_channels,
            PADDED_HIDDEN=layout.padded_hidden,
            BLOCK_ROWS=blocks.rows,
            BLOCK_HIDDEN=block_hidden,
            BLOCK_CHANNELS=block_channels,
            UPCAST=layout.upcast,
        )

    def features(self, k: int, count: int) -> None:
        """The gradient of the samples."""
        problem, layout = self.problem, self.problem.layout
        blocks = problem.table["feature_gradient"]
        block_channels = divisor(layout.padded_channels, blocks.channels)
        self._launch(
            feature_gradient_kernel,
            (ceil_div(self.rows, blocks.rows), layout.padded_channels // block_channels, count),
            at(self.grad_hidden, k),
            at(problem.packed, k),
            problem.packed.stride(0),
            at(self.grad_features, k),
            self.rows,
            k=k,
            blocks=blocks,
            PADDED_CHANNELS=layout.padded_channels,
            PADDED_HIDDEN=layout.padded_hidden,
            BLOCK_ROWS=blocks.rows,
            BLOCK_HIDDEN=problem.hidden_block(blocks),
            BLOCK_CHANNELS=block_channels,
            UPCAST=layout.upcast,
        )

    def joints(self, k: int, count: int) -> None:
        """The gradients of the joints that enter the steps, and of the intrinsics."""
        problem, layout = self.problem, self.problem.layout
        blocks = problem.table["joint_gradient"]
        block_joints = power_of_two(problem.num_joints)
        carried, has_carried = self._carried(k)
        self._launch(
            joint_gradient_kernel,
            (problem.batch, count),
            *problem.geometry,
            at(self.entering, slice(None), k),
            self.of_image,
            self.of_step,
            problem.intrinsics,
            at(self.grad_features, k),
            at(self.grad_relative, k),
            at(self.gradient, slice(None), k),
            carried,
            at(self.grad_entering, k),
            at(self.grad_intrinsics, k),
            problem.num_joints,
            k=k,
            blocks=blocks,
            CHANNELS=layout.channels,
            PADDED_CHANNELS=layout.padded_channels,
            BLOCK_JOINTS=block_joints,
            BLOCK_CHANNELS=min(max(16, blocks.channels * 32 // block_joints), power_of_two(max(layout.channels))),
            CARRIED=has_carried,
        )

    def weights(self, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, ...]:
        """The weights' gradients from their parts, in a fixed order."""
        problem, layout = self.problem, self.problem.layout
        blocks = problem.table["weights"]
        of_w1, of_w2, of_b2 = (problem.empty(*w.shape, dtype=w.dtype) for w in (w1, w2, b2))
        self._launch(
            weights_kernel,
            (ceil_div(layout.hidden, blocks.hidden), ceil_div(layout.channels_total, blocks.channels), self.num_steps),
            self.parts,
            self.partial,
            of_w1,
            of_w2,
            of_b2,
            self.splits,
            self.row_blocks,
            k=0,
            blocks=blocks,
            CHANNELS_TOTAL=layout.channels_total,
            PADDED_CHANNELS=layout.padded_channels,
            HIDDEN=layout.hidden,
            PADDED_HIDDEN=layout.padded_hidden,
            WIDTH=self.width,
            BLOCK_HIDDEN=blocks.hidden,
            BLOCK_CHANNELS=blocks.channels,
        )
        shape = (self.num_steps, problem.batch, problem.num_joints, layout.padded_hidden)
        # adds in float32, whatever b1 is, and rounds once
        of_b1 = self.grad_hidden.view(shape)[..., : layout.hidden].sum(dim=1, dtype=b1.dtype)
        return of_w1, of_b1, of_w2, of_b2

    def maps(self, of_maps: list[Tensor]) -> None:
        """Writes the maps' gradients over their zeros."""
        problem, layout = self.problem, self.problem.layout
        count = self.num_steps * problem.num_joints
        num_taps, num_maps = count * 4, len(of_maps)
        cells, owned, following = (
            problem.empty(num_maps, problem.batch, num_taps, dtype=torch.int32) for _ in range(3)
        )
        weights = problem.empty(num_maps, problem.batch, num_taps)
        blocks = problem.table["locate"]
        self._launch(
            locate_kernel,
            (ceil_div(problem.batch * count, blocks.rows),),
            layout.sizes,
            layout.scales,
            self.entering,
            problem.intrinsics,
            cells,
            weights,
            problem.batch * count,
            count,
            k=0,
            blocks=blocks,
            NUM_MAPS=num_maps,
            BLOCK_ROWS=blocks.rows,
        )
        blocks = problem.table["link"]
        grid = (num_maps * problem.batch, ceil_div(num_taps, blocks.rows))
        self._launch(link_kernel, grid, cells, owned, following, num_taps, k=0, blocks=blocks, BLOCK=blocks.rows)
        blocks = problem.table["map_gradient"]
        first = 0
        of_each = zip(of_maps, owned.unbind(), following.unbind(), weights.unbind())
        for l, (of_map, map_owned, map_following, map_weights) in enumerate(of_each):
            channels = layout.channels[l]
            block_channels = min(blocks.channels, power_of_two(channels))
            if of_map.numel() > 0:
                self._launch(
                    map_gradient_kernel,
                    (problem.batch, ceil_div(num_taps, blocks.rows), ceil_div(channels, block_channels)),
                    map_owned,
                    map_following,
                    map_weights,
                    self.grad_features,
                    of_map,
                    of_map.shape[1] * of_map.shape[2],
                    problem.batch,
                    problem.num_joints,
                    num_taps,
                    first,
                    k=l,
                    blocks=blocks,
                    CHANNELS=channels,
                    PADDED_CHANNELS=layout.padded_channels,
                    BLOCK_TAPS=blocks.rows,
                    BLOCK_CHANNELS=block_channels,
                )
            first += channels
