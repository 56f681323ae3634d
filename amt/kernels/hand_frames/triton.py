"""``hand_frames`` in Triton, for a GPU where the native library has no CUDA half: launches and custom ops."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels.hand_frames import autograd, triton_kernels

BLOCK, WARPS = 16, 4  # hands a program, at eight lanes each; backward holds four frames in registers

_OP, _BACKWARD = "amt::hand_frames_triton", "amt::hand_frames_triton_backward"
torch.library.define(_OP, "(Tensor joints) -> (Tensor, Tensor)")
torch.library.define(_BACKWARD, "(Tensor grad_origins, Tensor grad_rotations, Tensor joints) -> Tensor")


def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    """As ``amt.kernels.hand_frames``, on CUDA tensors (and on the CPU in Triton's interpreter)."""
    return autograd.call(torch.ops.amt.hand_frames_triton.default, joints)


@torch.library.impl(_OP, "CompositeExplicitAutograd")
def _forward(joints: Tensor) -> tuple[Tensor, Tensor]:
    batch = joints.shape[0]
    origins, rotations = autograd.empty_frames(joints)
    if batch:
        with torch.cuda.device_of(joints):
            triton_kernels.forward_kernel[(triton.cdiv(batch, BLOCK),)](
                joints.contiguous(), origins, rotations, batch, BLOCK=BLOCK, num_warps=WARPS
            )
    return origins, rotations


@torch.library.impl(_BACKWARD, "CompositeExplicitAutograd")
def _backward(grad_origins: Tensor, grad_rotations: Tensor, joints: Tensor) -> Tensor:
    batch = joints.shape[0]
    grad_joints = joints.new_empty(joints.shape)
    if batch:
        with torch.cuda.device_of(joints):
            triton_kernels.backward_kernel[(triton.cdiv(batch, BLOCK),)](
                grad_origins.contiguous(),
                grad_rotations.contiguous(),
                joints.contiguous(),
                grad_joints,
                batch,
                BLOCK=BLOCK,
                num_warps=WARPS,
            )
    return grad_joints


autograd.register(_OP, _BACKWARD)
