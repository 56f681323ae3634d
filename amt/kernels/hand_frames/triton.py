"""``hand_frames`` in Triton, for a GPU where the native library has no CUDA half: launches and custom ops."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels import _triton
from amt.kernels._plans import planned
from amt.kernels.hand_frames import autograd, triton_kernels

BLOCK, WARPS = 16, 4  # hands a program, at eight lanes each; backward holds four frames in registers

_OP, _BACKWARD = "amt::hand_frames_triton", "amt::hand_frames_triton_backward"
torch.library.define(_OP, "(Tensor joints) -> (Tensor, Tensor)")
torch.library.define(_BACKWARD, "(Tensor grad_origins, Tensor grad_rotations, Tensor joints) -> Tensor")


def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    """As ``amt.kernels.hand_frames``, on CUDA tensors (and on the CPU in Triton's interpreter)."""
    return autograd.call(torch.ops.amt.hand_frames_triton.default, joints)


def forward(joints: Tensor) -> tuple[Tensor, Tensor]:
    batch = joints.shape[0]
    origins, rotations = autograd.empty_frames(joints)
    if batch:
        with torch.cuda.device_of(joints):
            joints = joints.contiguous()
            launch = _triton.launcher(("hand_frames", _triton.signature(joints)))
            blocks = (triton.cdiv(batch, BLOCK),)
            launch(triton_kernels.forward_kernel, blocks, joints, origins, rotations, batch, warps=WARPS, BLOCK=BLOCK)
    return origins, rotations


def backward(grad_origins: Tensor, grad_rotations: Tensor, joints: Tensor) -> Tensor:
    batch = joints.shape[0]
    grad_joints = joints.new_empty(joints.shape)
    if batch:
        with torch.cuda.device_of(joints):
            inputs = (grad_origins.contiguous(), grad_rotations.contiguous(), joints.contiguous())
            launch = _triton.launcher(("hand_frames_backward", *map(_triton.signature, inputs)))
            blocks = (triton.cdiv(batch, BLOCK),)
            launch(triton_kernels.backward_kernel, blocks, *inputs, grad_joints, batch, warps=WARPS, BLOCK=BLOCK)
    return grad_joints


_forward = planned("hand_frames")(forward)
_backward = planned("hand_frames backward", rebuild=lambda results: results[0])(backward)
torch.library.impl(_OP, "CompositeExplicitAutograd", _forward)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _backward)
autograd.register(_OP, _BACKWARD)
