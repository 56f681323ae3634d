"""``refine`` in Triton: the function that the dispatch takes, the custom ops below it and their autograd.

Kernels: triton_two_kernel.py and triton_single.py (forward), triton_backward.py and triton_map_gradient.py; triton_launch.py
runs them. float16, bfloat16 and float32 maps with float32 coordinates; sums in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amt.kernels.refine import triton_launch
from amt.kernels.refine.native import NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS

_MLP = "Tensor w1, Tensor b1, Tensor w2, Tensor b2, int height, int width, float step_size, bool detach"


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
    if form not in ("auto", *triton_launch.FORMS):
        raise ValueError(f"refine: form must be auto, {' or '.join(triton_launch.FORMS)}, got {form!r}")
    height, width = image_size
    return _refine(joints, intrinsics, list(maps), w1, b1, w2, b2, height, width, step_size, detach, form)


@torch.library.custom_op(
    "amt::refine_triton",
    mutates_args=(),
    schema=f"(Tensor joints, Tensor intrinsics, Tensor[] maps, {_MLP}, str form) -> Tensor",
)
def _refine(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, form):
    with torch.cuda.device_of(joints):
        return triton_launch.forward(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, form)


@_refine.register_fake
def _(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, form):
    return joints.new_empty(joints.shape[0], w1.shape[0], joints.shape[1], 3)


@torch.library.custom_op(
    "amt::refine_triton_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor steps, Tensor joints, Tensor intrinsics, Tensor[] maps, {_MLP}, int needs) -> "
    "(Tensor, Tensor, Tensor[], Tensor, Tensor, Tensor, Tensor)",
)
def _refine_backward(
    gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs
):
    with torch.cuda.device_of(joints):
        return triton_launch.backward(
            gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs
        )


@_refine_backward.register_fake
def _(gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs):
    def like(tensor: Tensor, bit: int) -> Tensor:
        return tensor.new_empty(tensor.shape if needs & bit else (0,))

    coordinates = [like(t, NEEDS_COORDINATES) for t in (joints, intrinsics)]
    of_maps = [m.new_empty(m.shape) for m in maps] if needs & NEEDS_MAPS else []
    return (*coordinates, of_maps, *(like(w, NEEDS_WEIGHTS) for w in (w1, b1, w2, b2)))


def _setup_context(ctx, inputs, output):
    joints, intrinsics, maps, w1, b1, w2, b2, ctx.height, ctx.width, ctx.step_size, ctx.detach, _ = inputs
    ctx.save_for_backward(output, joints, intrinsics, w1, b1, w2, b2, *maps)


def _backward(ctx, gradient):
    steps, joints, intrinsics, w1, b1, w2, b2, *maps = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    needs = NEEDS_COORDINATES * (wanted[0] or wanted[1])
    needs |= NEEDS_MAPS * any(wanted[2])
    needs |= NEEDS_WEIGHTS * any(wanted[3:7])
    of_joints, of_intrinsics, of_maps, *of_weights = _refine_backward(
        gradient,
        steps,
        joints,
        intrinsics,
        maps,
        w1,
        b1,
        w2,
        b2,
        ctx.height,
        ctx.width,
        ctx.step_size,
        ctx.detach,
        needs,
    )
    of_maps = [g if w else None for g, w in zip(of_maps, wanted[2])] if any(wanted[2]) else [None] * len(maps)
    of_coordinates = [g if w else None for g, w in zip((of_joints, of_intrinsics), wanted)]
    of_weights = [g if w else None for g, w in zip(of_weights, wanted[3:7])]
    return (*of_coordinates, of_maps, *of_weights, None, None, None, None, None)


def _no_double_backward(ctx, *gradients):
    raise RuntimeError(
        "amt.kernels.refine has no double backward in Triton: "
        'run it inside `with amt.kernels.use("reference")`, which is differentiable any number of times'
    )


def _no_vmap(info, in_dims, *args):
    raise RuntimeError("amt.kernels.refine is batched over images already and does not run under torch.vmap")


_refine.register_autograd(_backward, setup_context=_setup_context)
_refine_backward.register_autograd(_no_double_backward)
_refine.register_vmap(_no_vmap)
_refine_backward.register_vmap(_no_vmap)
