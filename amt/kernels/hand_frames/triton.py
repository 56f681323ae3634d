"""``hand_frames`` in Triton, for a GPU where the native library has no CUDA half: launches, custom ops, autograd."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels.hand_frames import double_backward, triton_kernels
from amt.kernels.hand_frames.reference import NUM_FRAMES

BLOCK, WARPS = 16, 4  # hands a program, at eight lanes each; backward keeps four frames in registers


@torch.library.custom_op("amt::hand_frames_triton", mutates_args=())
def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    batch = joints.shape[0]
    origins, rotations = joints.new_empty(batch, NUM_FRAMES, 3), joints.new_empty(batch, NUM_FRAMES, 3, 3)
    if batch:
        with torch.cuda.device_of(joints):
            triton_kernels.forward_kernel[(triton.cdiv(batch, BLOCK),)](
                joints.contiguous(), origins, rotations, batch, BLOCK=BLOCK, num_warps=WARPS
            )
    return origins, rotations


@torch.library.custom_op("amt::hand_frames_triton_backward", mutates_args=())
def hand_frames_backward(grad_origins: Tensor, grad_rotations: Tensor, joints: Tensor) -> Tensor:
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


@hand_frames.register_fake
def _(joints: Tensor) -> tuple[Tensor, Tensor]:
    batch = joints.shape[0]
    return joints.new_empty(batch, NUM_FRAMES, 3), joints.new_empty(batch, NUM_FRAMES, 3, 3)


@hand_frames_backward.register_fake
def _(grad_origins: Tensor, grad_rotations: Tensor, joints: Tensor) -> Tensor:
    return joints.new_empty(joints.shape)


def _backward(ctx, grad_origins: Tensor, grad_rotations: Tensor) -> Tensor:
    return hand_frames_backward(grad_origins, grad_rotations, *ctx.saved_tensors)


hand_frames.register_autograd(_backward, setup_context=double_backward.save)
hand_frames_backward.register_autograd(double_backward.backward, setup_context=double_backward.save)
