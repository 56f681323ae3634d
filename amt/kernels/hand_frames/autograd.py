"""Shapes and derivatives of ``hand_frames``, one definition for the ops of every implementation.

The backward is an op of its own. Second derivatives are those of the reference: rare, so right rather than fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _torch_private
from amt.kernels.hand_frames import reference


def register(forward: str, backward: str) -> None:
    """Registers fakes and derivatives of the ops ``forward`` (joints -> origins, rotations) and ``backward`` (grad_origins,
    grad_rotations, joints -> grad_joints), named as in ``"amt::hand_frames"``. Once for each name in a process."""
    namespace, name = backward.split("::")
    backward_op = getattr(getattr(torch.ops, namespace), name).default

    def first_order(ctx, grad_origins: Tensor, grad_rotations: Tensor) -> Tensor:
        return backward_op(grad_origins, grad_rotations, *ctx.saved_tensors)

    torch.library.register_fake(forward, empty_frames)
    torch.library.register_fake(backward, lambda grad_origins, grad_rotations, joints: joints.new_empty(joints.shape))
    torch.library.register_autograd(forward, first_order, setup_context=_save_inputs)
    torch.library.register_autograd(backward, _second_order, setup_context=_save_inputs)


def call(op, joints: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the forward's op, without its autograd where no gradient is needed."""
    if (joints.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return op(joints)
    # the autograd key of a formula that is registered in Python costs more than the kernel
    with _torch_private.AutoDispatchBelowAutograd():
        return op(joints)


def empty_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Origins [B, 22, 3] and rotations [B, 22, 3, 3] that are not yet written."""
    shape = (joints.shape[0], reference.NUM_FRAMES, 3)
    return joints.new_empty(shape), joints.new_empty(*shape, 3)


def _save_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _second_order(ctx, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the backward's inputs (grad_origins, grad_rotations, joints)."""
    with torch.enable_grad():
        arguments = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        *grad_outputs, joints = arguments
        (grad_joints,) = torch.autograd.grad(reference.hand_frames(joints), joints, grad_outputs, create_graph=True)
    return torch.autograd.grad(grad_joints, arguments, grad_grad, allow_unused=True)
