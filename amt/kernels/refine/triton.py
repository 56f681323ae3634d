"""``refine`` in Triton, the host side: the function that the dispatch takes, its custom ops, and the launches of the forward.

triton_backward.py launches the backward. triton_problem.py holds what all launches of a call share, triton_kernels/ the kernels.
Maps in float16, bfloat16 or float32 with float32 coordinates; products in the dtype of w1, sums in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amt.kernels._plans import planned
from amt.kernels.refine import autograd
from amt.kernels.refine.triton_backward import backward
from amt.kernels.refine.triton_kernels.forward import mlp_kernel, single_kernel
from amt.kernels.refine.triton_problem import Problem, at, ceil_div

FORMS = ("two_kernel", "single")


def refine(
    joints: Tensor,  # [B, J, 3] float32, m
    intrinsics: Tensor,  # [B, 3, 3]
    maps: Sequence[Tensor],  # L x [B, H_l, W_l, C_l]
    w1: Tensor,  # [S, D, C + 3]
    b1: Tensor,  # [S, J, D]
    w2: Tensor,  # [S, 3, D]
    b2: Tensor,  # [S, 3]
    image_size: tuple[int, int],
    step_size: float,
    detach: bool,
    form: str = "auto",
) -> Tensor:  # [B, S, J, 3]
    """As the reference. ``form``: "two_kernel" (gather, then a GEMM), "single" (one kernel a step) or "auto".

    Raises:
        ValueError: an unknown form.
    """
    if form not in ("auto", *FORMS):
        raise ValueError(f"refine: form must be auto, {' or '.join(FORMS)}, got {form!r}")
    needed = autograd.is_needed(joints, intrinsics, maps, w1, b1, w2, b2)
    return autograd.call(_OPS, needed, joints, intrinsics, maps, w1, b1, w2, b2, *image_size, step_size, detach, form)


def choose_form(rows: int) -> str:
    """The form that "auto" takes for ``rows`` = B J projections.

    On an H200 the single kernel takes 32 to 36 µs for two steps of up to 64 images, the two kernels 38 µs; for 512 images it is
    178 against 110 µs.
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
    detach: bool,
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
        **layout.constants,
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_HIDDEN": problem.hidden_block(blocks),
        "BLOCK_CHANNELS": blocks.channels,
    }
    out_stride = layout.num_steps * num_joints * 3
    for k in range(layout.num_steps):
        entering, image_stride = (problem.joints, num_joints * 3) if k == 0 else (steps[:, k - 1], out_stride)
        step = {
            **problem.weights(k),
            "b2": at(problem.b2, k),
            "entering": entering,
            "image_stride": image_stride,
            "out": at(steps, slice(None), k),
            "out_stride": out_stride,
            "rows": problem.rows,
            "num_joints": num_joints,
            "scale": step_size / 2**k,
        }
        if two_kernel:
            problem.gather(entering, image_stride=image_stride, step_stride=0, features=features, slot=("forward", k))
            problem.launch(mlp_kernel, grid, blocks=blocks, slot=(k,), features=features, **step, **constants)
        else:
            problem.launch(
                single_kernel,
                grid,
                blocks=blocks,
                slot=(k,),
                **problem.geometry,
                intrinsics=problem.intrinsics,
                **step,
                CHANNELS=layout.channels,
                **constants,
            )
    return steps


_MLP = "Tensor w1, Tensor b1, Tensor w2, Tensor b2, int height, int width, float step_size, bool detach"
_FORWARD, _BACKWARD = "amt::refine_triton", "amt::refine_triton_backward"
torch.library.define(_FORWARD, f"(Tensor joints, Tensor intrinsics, Tensor[] maps, {_MLP}, str form) -> Tensor")
torch.library.define(
    _BACKWARD,
    f"(Tensor grad_steps, Tensor steps, Tensor joints, Tensor intrinsics, Tensor[] maps, {_MLP}, int needs) -> "
    "(Tensor, Tensor, Tensor[], Tensor, Tensor, Tensor, Tensor)",
)


_planned_forward = planned("refine", rebuild=lambda results: results[0])(forward)
_planned_backward = planned("refine backward", rebuild=lambda r: (r[0], r[1], r[2:-4], *r[-4:]))(backward)


@torch.library.impl(_FORWARD, "CompositeExplicitAutograd")
def _forward(joints, *arguments):
    with torch.cuda.device_of(joints):
        return _planned_forward(joints, *arguments)


@torch.library.impl(_BACKWARD, "CompositeExplicitAutograd")
def _backward(grad_steps, *arguments):
    with torch.cuda.device_of(grad_steps):
        return _planned_backward(grad_steps, *arguments)


@torch.library.register_fake(_FORWARD)
def _fake_forward(joints, intrinsics, maps, w1, *arguments):
    return joints.new_empty(joints.shape[0], w1.shape[0], joints.shape[1], 3)


_OPS = autograd.Ops("Triton", torch.ops.amt.refine_triton.default, torch.ops.amt.refine_triton_backward.default)
autograd.register(_OPS)
