"""``refine`` by the native library: fake and autograd registrations of ``torch.ops.amt.refine``, and the function that calls it.

The op is one for the CPU and CUDA. It returns the steps and, with ``keep``, what its backward reads again (opaque).
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _native, _torch_private

# csrc/refine/simd_kernels.h: rows a panel, panels a block
PANEL_ROWS, MOST_PANELS = 32, 4
CUDA_MOST_JOINTS = 128  # csrc/refine/cuda_problem.cuh
# csrc/refine/math.h: bits of refine_backward's `needs`
NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS = 1, 2, 4


def refine(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach) -> Tensor:
    """Takes the reference's arguments; see ``amt.kernels.refine``."""
    joints, intrinsics = joints.contiguous(), intrinsics.contiguous()
    # w1 may stay expanded over the steps, or a slice; the others are small
    w1 = w1 if w1.stride(2) == 1 else w1.contiguous()
    b1, w2, b2 = b1.contiguous(), w2.contiguous(), b2.contiguous()
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (joints, intrinsics, *maps, w1, b1, w2, b2))
    height, width = image_size
    arguments = (w1, b1, w2, b2, height, width, step_size, detach)
    if torch.compiler.is_compiling() or _torch_private.functorch_transforms_active():
        return torch.ops.amt.refine.default(joints, intrinsics, list(maps), *arguments, keep)[0]
    # the op's own autograd, in Python over nested lists, costs several times the kernel where there are few images
    if keep:
        return _Refine.apply(joints, intrinsics, *arguments, *maps)
    with _torch_private.AutoDispatchBelowAutograd():
        return torch.ops.amt.refine.default(joints, intrinsics, maps, *arguments, False)[0]


def _kept_shape(joints: Tensor, w1: Tensor) -> tuple[int, ...]:
    batch, num_joints = joints.shape[:2]
    steps, hidden = w1.shape[:2]
    if joints.device.type == "cuda":
        return (batch, steps, num_joints, hidden)
    images, lanes = plan(num_joints)
    return (-(-batch // images) * steps * hidden * lanes if num_joints > 0 else 0,)


def plan(num_joints: int) -> tuple[int, int]:
    """Images of a chunk, and its rows rounded up to whole panels: ``Plan`` of csrc/refine/cpu_problem.h."""

    def padded(images: int) -> int:
        return -(-images * num_joints // PANEL_ROWS) * PANEL_ROWS

    best = 1
    if num_joints > 0:
        for images in range(2, MOST_PANELS * PANEL_ROWS // num_joints + 1):
            if best * padded(images) < images * padded(best):
                best = images
    return best, padded(best)


def _fake(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, keep):
    # one tensor on meta among others brings us here
    if any(t.device != joints.device for t in (intrinsics, *maps, w1, b1, w2, b2)):
        raise RuntimeError("refine: all tensors must be on one device")
    steps = joints.new_empty(joints.shape[0], w1.shape[0], joints.shape[1], 3)
    return steps, joints.new_empty(_kept_shape(joints, w1) if keep else (0,))


def _fake_backward(
    gradient, steps, kept, joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, needs
):
    def output(bit: int, like: Tensor) -> Tensor:
        return like.new_empty(like.shape if needs & bit else (0,))

    return (
        output(NEEDS_COORDINATES, joints),
        output(NEEDS_COORDINATES, intrinsics),
        [output(NEEDS_MAPS, m) for m in maps] if needs & NEEDS_MAPS else [],
        *(output(NEEDS_WEIGHTS, w) for w in (w1, b1, w2, b2)),
    )


def below_autograd(op, arguments: tuple):
    """Calls a backward's op without its own autograd, which costs more than a launch, unless a graph of it is asked for."""
    if torch.is_grad_enabled():
        return op(*arguments)
    with _torch_private.AutoDispatchBelowAutograd():
        return op(*arguments)


def _gradients(gradient, saved, height, width, step_size, detach, needed) -> tuple:
    """Gradients of joints, intrinsics, [maps], w1, b1, w2, b2; ``needed`` says of each whether it is."""
    steps, kept, joints, intrinsics, w1, b1, w2, b2, *maps = saved
    of_joints, of_intrinsics, of_maps, *of_weights = needed
    needs = (
        NEEDS_COORDINATES * (of_joints or of_intrinsics) | NEEDS_MAPS * any(of_maps) | NEEDS_WEIGHTS * any(of_weights)
    )
    tensors = (gradient.contiguous(), steps, kept, joints, intrinsics, maps, w1, b1, w2, b2)
    d_joints, d_intrinsics, d_maps, *d_weights = below_autograd(
        torch.ops.amt.refine_backward.default, (*tensors, height, width, step_size, detach, needs)
    )
    return (
        d_joints if of_joints else None,
        d_intrinsics if of_intrinsics else None,
        [d if wanted else None for d, wanted in zip(d_maps, of_maps)] if any(of_maps) else [None] * len(maps),
        *(d if wanted else None for d, wanted in zip(d_weights, of_weights)),
    )


class _Refine(torch.autograd.Function):
    """The op in eager mode; without ``setup_context``, for which PyTorch would bind the arguments by name in 0.1 ms."""

    @staticmethod
    def forward(ctx, joints, intrinsics, w1, b1, w2, b2, height, width, step_size, detach, *maps):
        with _torch_private.AutoDispatchBelowAutograd():
            steps, kept = torch.ops.amt.refine.default(
                joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, True
            )
        ctx.save_for_backward(steps, kept, joints, intrinsics, w1, b1, w2, b2, *maps)
        ctx.rest = (height, width, step_size, detach)
        return steps

    @staticmethod
    def backward(ctx, gradient: Tensor):
        needed = ctx.needs_input_grad
        d_joints, d_intrinsics, d_maps, *d_weights = _gradients(
            gradient, ctx.saved_tensors, *ctx.rest, (*needed[:2], needed[10:], *needed[2:6])
        )
        return d_joints, d_intrinsics, *d_weights, None, None, None, None, *d_maps


def _setup(ctx, inputs, output) -> None:
    joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, keep = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.keep = keep
    if keep:
        ctx.save_for_backward(*output, joints, intrinsics, w1, b1, w2, b2, *maps)
    ctx.rest = (height, width, step_size, detach)


def _backward(ctx, gradient: Tensor, _):
    if not ctx.keep:
        raise RuntimeError("amt::refine was called with keep=False: nothing was kept for its backward")
    return *_gradients(gradient, ctx.saved_tensors, *ctx.rest, ctx.needs_input_grad[:7]), *[None] * 5


def _no_double_backward(ctx, *gradients):
    raise RuntimeError(
        "amt.kernels.refine has no double backward in the native library: "
        'run it inside `with amt.kernels.use("reference")`, which is differentiable any number of times'
    )


def _no_vmap(info, in_dims, *args):
    raise RuntimeError("amt.kernels.refine is batched over images already and does not run under torch.vmap")


if _native.missing("refine", "cpu") is None:
    torch.library.register_fake("amt::refine", _fake)
    torch.library.register_fake("amt::refine_backward", _fake_backward)
    torch.library.register_autograd("amt::refine", _backward, setup_context=_setup)
    torch.library.register_autograd("amt::refine_backward", _no_double_backward)
    torch.library.register_vmap("amt::refine", _no_vmap)
    torch.library.register_vmap("amt::refine_backward", _no_vmap)
