"""Second derivatives of ``hand_frames``, for every implementation: rare, so right rather than fast."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.hand_frames import reference


def save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def backward(ctx, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the op's backward (grad_origins, grad_rotations, joints): those of the definition's own gradient."""
    with torch.enable_grad():
        arguments = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        *grad_outputs, joints = arguments
        (grad_joints,) = torch.autograd.grad(reference.hand_frames(joints), joints, grad_outputs, create_graph=True)
    return torch.autograd.grad(grad_joints, arguments, grad_grad, allow_unused=True)
