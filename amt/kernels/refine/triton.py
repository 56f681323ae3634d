"""``refine`` in Triton: the function that the dispatch takes, the custom ops below it and their autograd.

Kernels: triton_two_kernel.py and triton_single.py (forward), triton_backward.py and triton_map_gradient.py; triton_launch.py
runs them. float16, bfloat16 and float32 maps with float32 coordinates; sums in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amt.kernels import _torch_private
from amt.kernels.refine import triton_launch
from amt.kernels.refine.native import NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS, below_autograd

_MLP = "Tensor w1, Tensor b1, Tensor w2, Tensor b2, int height, int width, float step_size, bool detach"
_OP, _BACKWARD = "amt::refine_triton", "amt::refine_triton_backward"
torch.library.define(_OP, f"(Tensor joints, Tensor intrinsics, Tensor[] maps, {_MLP}, str form) -> Tensor")
torch.library.define(
    _BACKWARD,
    f"(Tensor gradient, Tensor steps, Tensor joints, Tensor intrinsics, Tensor[] maps, {_MLP}, int needs) -> "
    "(Tensor, Tensor, Tensor[], Tensor, Tensor, Tensor, Tensor)",
)


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
    rest = (w1, b1, w2, b2, height, width, step_size, detach, form)
    if torch.compiler.is_compiling() or _torch_private.functorch_transforms_active():
        return torch.ops.amt.refine_triton.default(joints, intrinsics, list(maps), *rest)
    # the op's own autograd, in Python over nested lists, costs several times a launch on the host
    if torch.is_grad_enabled() and any(t.requires_grad for t in (joints, intrinsics, *maps, w1, b1, w2, b2)):
        return _Refine.apply(joints, intrinsics, *rest, *maps)
    with _torch_private.AutoDispatchBelowAutograd():
        return torch.ops.amt.refine_triton.default(joints, intrinsics, maps, *rest)


@torch.library.impl(_OP, "CompositeExplicitAutograd")
def _forward(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, form):
    with torch.cuda.device_of(joints):
        return triton_launch.forward(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, form)


@torch.library.register_fake(_OP)
def _(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, form):
    return joints.new_empty(joints.shape[0], w1.shape[0], joints.shape[1], 3)


@torch.library.impl(_BACKWARD, "CompositeExplicitAutograd")
def _backward(gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs):
    with torch.cuda.device_of(joints):
        return triton_launch.backward(
            gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs
        )


@torch.library.register_fake(_BACKWARD)
def _(gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs):
    def like(tensor: Tensor, bit: int) -> Tensor:
        return tensor.new_empty(tensor.shape if needs & bit else (0,))

    coordinates = [like(t, NEEDS_COORDINATES) for t in (joints, intrinsics)]
    of_maps = [m.new_empty(m.shape) for m in maps] if needs & NEEDS_MAPS else []
    return (*coordinates, of_maps, *(like(w, NEEDS_WEIGHTS) for w in (w1, b1, w2, b2)))


def _gradients(gradient, saved, height, width, step_size, detach, needed) -> tuple:
    """Gradients of joints, intrinsics, [maps], w1, b1, w2, b2; ``needed`` says of each whether it is."""
    steps, joints, intrinsics, w1, b1, w2, b2, *maps = saved
    of_joints, of_intrinsics, of_maps, *of_weights = needed
    needs = NEEDS_COORDINATES * (of_joints or of_intrinsics) | NEEDS_MAPS * any(of_maps)
    needs |= NEEDS_WEIGHTS * any(of_weights)
    arguments = (gradient, steps, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs)
    d_joints, d_intrinsics, d_maps, *d_weights = below_autograd(torch.ops.amt.refine_triton_backward.default, arguments)
    return (
        d_joints if of_joints else None,
        d_intrinsics if of_intrinsics else None,
        [d if wanted else None for d, wanted in zip(d_maps, of_maps)] if any(of_maps) else [None] * len(maps),
        *(d if wanted else None for d, wanted in zip(d_weights, of_weights)),
    )


class _Refine(torch.autograd.Function):
    """The op in eager mode; without ``setup_context``, for which PyTorch would bind the arguments by name in 0.1 ms."""

    @staticmethod
    def forward(ctx, joints, intrinsics, w1, b1, w2, b2, height, width, step_size, detach, form, *maps):
        with _torch_private.AutoDispatchBelowAutograd():
            steps = torch.ops.amt.refine_triton.default(
                joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, form
            )
        ctx.save_for_backward(steps, joints, intrinsics, w1, b1, w2, b2, *maps)
        ctx.rest = (height, width, step_size, detach)
        return steps

    @staticmethod
    def backward(ctx, gradient: Tensor):
        needed = ctx.needs_input_grad
        d_joints, d_intrinsics, d_maps, *d_weights = _gradients(
            gradient, ctx.saved_tensors, *ctx.rest, (*needed[:2], needed[11:], *needed[2:6])
        )
        return d_joints, d_intrinsics, *d_weights, None, None, None, None, None, *d_maps


def _setup(ctx, inputs, output) -> None:
    joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, _ = inputs
    ctx.save_for_backward(output, joints, intrinsics, w1, b1, w2, b2, *maps)
    ctx.rest = (height, width, step_size, detach)


def _formula(ctx, gradient: Tensor) -> tuple:
    return *_gradients(gradient, ctx.saved_tensors, *ctx.rest, ctx.needs_input_grad[:7]), *[None] * 5


def _no_double_backward(ctx, *gradients):
    raise RuntimeError(
        "amt.kernels.refine has no double backward in Triton: "
        'run it inside `with amt.kernels.use("reference")`, which is differentiable any number of times'
    )


def _no_vmap(info, in_dims, *args):
    raise RuntimeError("amt.kernels.refine is batched over images already and does not run under torch.vmap")


torch.library.register_autograd(_OP, _formula, setup_context=_setup)
torch.library.register_autograd(_BACKWARD, _no_double_backward)
torch.library.register_vmap(_OP, _no_vmap)
torch.library.register_vmap(_BACKWARD, _no_vmap)
