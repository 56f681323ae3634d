"""``refine`` backward in Triton, the host side: buffers, and the order of the launches of triton_kernels/."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels._triton import aligned
from amt.kernels.refine.autograd import NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS
from amt.kernels.refine.triton_kernels.backward import (
    feature_gradient_kernel,
    joint_gradient_kernel,
    mlp_backward_kernel,
    weight_gradient_kernel,
    weights_kernel,
)
from amt.kernels.refine.triton_kernels.map_gradient import link_kernel, locate_kernel, map_gradient_kernel
from amt.kernels.refine.triton_problem import Problem, at, ceil_div, divisor, power_of_two

ROWS_PER_SPLIT = 1024  # of the weight gradient: a constant, so that every card adds in the same order


def backward(
    grad_steps: Tensor,
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
    needs_coordinates, needs_weights = needs & NEEDS_COORDINATES, needs & NEEDS_WEIGHTS
    weights = (w1, b1, w2, b2)
    grad_maps = [torch.zeros(m.shape, dtype=m.dtype, device=m.device) for m in maps] if needs & NEEDS_MAPS else []
    if problem.rows == 0:
        grad_coordinates = [x.new_zeros(x.shape if needs_coordinates else 0) for x in (joints, intrinsics)]
        return *grad_coordinates, grad_maps, *(w.new_zeros(w.shape if needs_weights else 0) for w in weights)
    launches = _Launches(problem, grad_steps.contiguous(), steps, step_size, detach)
    for k, count in launches.passes():
        through = not detach and k > 0  # gradients pass from this step to the one before it
        launches.mlp(k, count)
        if needs_weights:
            launches.weight_parts(k, count)
        if needs & (NEEDS_MAPS | NEEDS_COORDINATES) or through:
            launches.features(k, count)
        if needs_coordinates or through:
            launches.joints(k, count)
    if grad_maps:
        launches.maps(grad_maps)
    if needs_coordinates:
        grad_coordinates = (launches.grad_entering[0].view(joints.shape), launches.grad_intrinsics.sum(dim=0))
    else:
        grad_coordinates = (joints.new_empty(0), intrinsics.new_empty(0))
    grad_weights = launches.weights(*weights) if needs_weights else [w.new_empty(0) for w in weights]
    return *grad_coordinates, grad_maps, *grad_weights


class _Launches:
    """One backward pass: its buffers, [S, ...] in the order of the steps, and the launches that fill them.

    The methods that take ``k`` and ``count`` handle steps k .. k + count - 1 in one launch.
    """

    def __init__(self, problem: Problem, grad_steps: Tensor, steps: Tensor, step_size: float, detach: bool):
        self.problem, self.grad_steps, self.step_size = problem, grad_steps, step_size
        layout = problem.layout
        self.num_steps, self.rows, self.detach = layout.num_steps, problem.rows, detach
        self.slot = (aligned(grad_steps), detach)
        # the joints that enter each step, [B, S, J, 3], and its strides
        self.entering = torch.cat([problem.joints[:, None], steps[:, :-1]], dim=1)
        self.step_stride = problem.num_joints * 3
        self.image_stride = self.num_steps * self.step_stride
        steps_at_once = self.num_steps if detach else 1
        self.features_read = problem.empty(steps_at_once, self.rows, layout.padded_channels, dtype=problem.dtype)
        self.grad_features = problem.empty(self.num_steps, self.rows, layout.padded_channels, dtype=problem.dtype)
        self.grad_hidden = problem.empty(self.num_steps, self.rows, layout.padded_hidden, dtype=problem.dtype)
        self.grad_relative = problem.empty(self.num_steps, self.rows, 3)
        self.grad_entering = problem.empty(self.num_steps, self.rows, 3)
        self.grad_intrinsics = problem.empty(self.num_steps, problem.batch, 3, 3)
        self.row_blocks = ceil_div(self.rows, problem.table["mlp_backward"].rows)
        self.splits = ceil_div(self.rows, ROWS_PER_SPLIT)
        self.width = max(layout.hidden, 16)  # of a row of `partial`: the hidden units, or b2's three
        self.partial = problem.empty(self.num_steps, self.row_blocks, 7, self.width)
        self.parts = None

    def passes(self) -> list[tuple[int, int]]:
        """(first step, steps at once). detach=True: one launch for all steps. detach=False: one per step, the last one first."""
        return [(0, self.num_steps)] if self.detach else [(k, 1) for k in reversed(range(self.num_steps))]

    def _launch(self, kernel, grid, /, *, k: int, blocks, **arguments) -> None:
        self.problem.launch(kernel, grid, blocks=blocks, slot=(*self.slot, k), **arguments)

    def _entering(self, k: int) -> dict[str, object]:
        """The joints that enter step ``k`` and the steps after it, and their strides in floats, as the kernels name them."""
        entering = at(self.entering, slice(None), k)
        return {"entering": entering, "image_stride": self.image_stride, "step_stride": self.step_stride}

    def _carried(self, k: int) -> tuple[Tensor, bool]:
        """The gradient that step k + 1 passes to step k, and whether it does."""
        carried = not self.detach and k + 1 < self.num_steps
        return (self.grad_entering[k + 1] if carried else self.grad_steps), carried

    def mlp(self, k: int, count: int) -> None:
        """Recomputes features and pre-activations; the gradient of the pre-activations."""
        problem, layout = self.problem, self.problem.layout
        blocks = problem.table["mlp_backward"]
        entering = self._entering(k)
        problem.gather(**entering, features=self.features_read, slot=("backward", k))
        carried, has_carried = self._carried(k)
        self._launch(
            mlp_backward_kernel,
            (self.row_blocks, count),
            k=k,
            blocks=blocks,
            features=self.features_read,
            **problem.weights(k),
            packed_stride=problem.packed.stride(0),
            w1_stride=problem.w1.stride(0),
            **entering,
            grad_steps=at(self.grad_steps, slice(None), k),
            carried=carried,
            scale=self.step_size / 2**k,
            grad_hidden=at(self.grad_hidden, k),
            grad_relative=at(self.grad_relative, k),
            partial=at(self.partial, k),
            rows=self.rows,
            num_joints=problem.num_joints,
            **layout.constants,
            WIDTH=self.width,
            BLOCK_ROWS=blocks.rows,
            BLOCK_HIDDEN=problem.hidden_block(blocks),
            BLOCK_CHANNELS=blocks.channels,
            CARRIED=has_carried,
        )

    def weight_parts(self, k: int, count: int) -> None:
        """w1's gradient without its relative columns: one part for each split of the rows."""
        problem, layout = self.problem, self.problem.layout
        if self.parts is None:
            self.parts = problem.empty(self.num_steps, self.splits, layout.padded_hidden, layout.padded_channels)
        blocks = problem.table["weight_gradient"]
        block_hidden = problem.hidden_block(blocks)
        block_channels = divisor(layout.padded_channels, blocks.channels)
        self._launch(
            weight_gradient_kernel,
            (layout.padded_hidden // block_hidden, layout.padded_channels // block_channels, self.splits * count),
            k=k,
            blocks=blocks,
            grad_hidden=at(self.grad_hidden, k),
            features=self.features_read,
            parts=at(self.parts, k),
            rows=self.rows,
            rows_per_split=ROWS_PER_SPLIT,
            splits=self.splits,
            **layout.constants,
            BLOCK_ROWS=blocks.rows,
            BLOCK_HIDDEN=block_hidden,
            BLOCK_CHANNELS=block_channels,
        )

    def features(self, k: int, count: int) -> None:
        """The gradient of the samples."""
        problem, layout = self.problem, self.problem.layout
        blocks = problem.table["feature_gradient"]
        block_channels = divisor(layout.padded_channels, blocks.channels)
        self._launch(
            feature_gradient_kernel,
            (ceil_div(self.rows, blocks.rows), layout.padded_channels // block_channels, count),
            k=k,
            blocks=blocks,
            grad_hidden=at(self.grad_hidden, k),
            packed=at(problem.packed, k),
            packed_stride=problem.packed.stride(0),
            grad_features=at(self.grad_features, k),
            rows=self.rows,
            **layout.constants,
            BLOCK_ROWS=blocks.rows,
            BLOCK_HIDDEN=problem.hidden_block(blocks),
            BLOCK_CHANNELS=block_channels,
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
            k=k,
            blocks=blocks,
            **problem.geometry,
            **self._entering(k),
            intrinsics=problem.intrinsics,
            grad_features=at(self.grad_features, k),
            grad_relative=at(self.grad_relative, k),
            grad_steps=at(self.grad_steps, slice(None), k),
            carried=carried,
            grad_entering=at(self.grad_entering, k),
            grad_intrinsics=at(self.grad_intrinsics, k),
            num_joints=problem.num_joints,
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
        grad_w1, grad_w2, grad_b2 = (problem.empty(*w.shape, dtype=w.dtype) for w in (w1, w2, b2))
        self._launch(
            weights_kernel,
            (ceil_div(layout.hidden, blocks.hidden), ceil_div(layout.channels_total, blocks.channels), self.num_steps),
            k=0,
            blocks=blocks,
            parts=self.parts,
            partial=self.partial,
            grad_w1=grad_w1,
            grad_w2=grad_w2,
            grad_b2=grad_b2,
            splits=self.splits,
            row_blocks=self.row_blocks,
            **layout.constants,
            WIDTH=self.width,
            BLOCK_HIDDEN=blocks.hidden,
            BLOCK_CHANNELS=blocks.channels,
        )
        shape = (self.num_steps, problem.batch, problem.num_joints, layout.padded_hidden)
        grad_hidden = self.grad_hidden.view(shape)[..., : layout.hidden]
        # PyTorch adds in float32 whatever the dtype, and rounds once; a narrower dtype would round each addend first
        dtype = b1.dtype if b1.dtype == grad_hidden.dtype else torch.float32
        grad_b1 = grad_hidden.sum(dim=1, dtype=dtype).to(b1.dtype)
        return grad_w1, grad_b1, grad_w2, grad_b2

    def maps(self, grad_maps: list[Tensor]) -> None:
        """Writes the maps' gradients over their zeros."""
        problem, layout = self.problem, self.problem.layout
        count = self.num_steps * problem.num_joints
        num_taps, num_maps = count * 4, len(grad_maps)
        cells, owned, following = (
            problem.empty(num_maps, problem.batch, num_taps, dtype=torch.int32) for _ in range(3)
        )
        weights = problem.empty(num_maps, problem.batch, num_taps)
        blocks = problem.table["locate"]
        self._launch(
            locate_kernel,
            (ceil_div(problem.batch * count, blocks.rows),),
            k=0,
            blocks=blocks,
            sizes=layout.sizes,
            scales=layout.scales,
            entering=self.entering,
            intrinsics=problem.intrinsics,
            cells=cells,
            weights=weights,
            total=problem.batch * count,
            count=count,
            NUM_MAPS=num_maps,
            BLOCK_ROWS=blocks.rows,
        )
        blocks = problem.table["link"]
        self._launch(
            link_kernel,
            (num_maps * problem.batch, ceil_div(num_taps, blocks.rows)),
            k=0,
            blocks=blocks,
            cells=cells,
            owned=owned,
            following=following,
            num_taps=num_taps,
            BLOCK=blocks.rows,
        )
        blocks = problem.table["map_gradient"]
        first = 0
        for l, grad_map in enumerate(grad_maps):
            channels = layout.channels[l]
            block_channels = min(blocks.channels, power_of_two(channels))
            if grad_map.numel() > 0:
                self._launch(
                    map_gradient_kernel,
                    (problem.batch, ceil_div(num_taps, blocks.rows), ceil_div(channels, block_channels)),
                    k=l,
                    blocks=blocks,
                    owned=owned[l],
                    following=following[l],
                    weights=weights[l],
                    grad_features=self.grad_features,
                    grad_map=grad_map,
                    num_cells=grad_map.shape[1] * grad_map.shape[2],
                    batch=problem.batch,
                    num_joints=problem.num_joints,
                    num_taps=num_taps,
                    first=first,
                    CHANNELS=channels,
                    PADDED_CHANNELS=layout.padded_channels,
                    BLOCK_TAPS=blocks.rows,
                    BLOCK_CHANNELS=block_channels,
                )
            first += channels
