"""``hand_frames`` in C++ and CUDA (csrc/hand_frames*): its fake, its gradients, and a way past autograd where none is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.hand_frames import double_backward, reference

_op = torch.ops.amt.hand_frames.default


def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    if (joints.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return _op(joints)
    # the autograd key of a Python-registered formula costs more than the kernel
    with torch._C._AutoDispatchBelowAutograd():
        return _op(joints)


@torch.library.register_fake("amt::hand_frames")
def _(joints: Tensor) -> tuple[Tensor, Tensor]:
    batch = joints.shape[0]
    return joints.new_empty(batch, reference.NUM_FRAMES, 3), joints.new_empty(batch, reference.NUM_FRAMES, 3, 3)


@torch.library.register_fake("amt::hand_frames_backward")
def _(grad_origins: Tensor, grad_rotations: Tensor, joints: Tensor) -> Tensor:
    return joints.new_empty(joints.shape)


def _backward(ctx, grad_origins: Tensor, grad_rotations: Tensor) -> Tensor:
    return torch.ops.amt.hand_frames_backward(grad_origins, grad_rotations, *ctx.saved_tensors)


torch.library.register_autograd("amt::hand_frames", _backward, setup_context=double_backward.save)
torch.library.register_autograd(
    "amt::hand_frames_backward", double_backward.backward, setup_context=double_backward.save
)
