"""Which implementation runs ``refine`` on a GPU, by the sizes of the call.

CUDA's forward runs all steps of an image in one launch: of all implementations it needs the least time on the host, which
decides where there are few images. Its kernels hold one image in shared memory, so the numbers of joints, steps and hidden units
are bounded. Triton takes all other calls in float32; the reference takes what neither can run.
"""

from __future__ import annotations

import functools
import sys
import warnings

import torch
from torch import Tensor

# Up to this many images, called one by one, CUDA needs the least time on the host (H200: 0.10 ms against Triton's 0.16 ms at 8
# images). In a CUDA graph the host does not count, and Triton's kernels take a third of CUDA's time.
SMALL_BATCH = 8

# Limits of csrc's CUDA kernels: joints, and bytes of shared memory per block by the bytes of a coordinate.
CUDA_MAX_JOINTS = 128
CUDA_FORWARD_BYTES = {4: 66_976, 8: 131_648}
CUDA_BACKWARD_BYTES = {4: (23_552, 96), 8: (44_800, 192)}  # fixed, and per hidden unit


def cuda_bytes(num_joints: int, steps: int, hidden: int, dtype: torch.dtype) -> int:
    """Bytes of shared memory per block that the greediest of CUDA's kernels needs: the forward's, the backward's, the maps'
    gradient's, which holds a weight and an int64 cell of every tap. ``dtype`` is the joints', float32 or float64.
    """
    fixed, per_unit = CUDA_BACKWARD_BYTES[dtype.itemsize]
    taps = 4 * num_joints * steps
    return max(CUDA_FORWARD_BYTES[dtype.itemsize], fixed + per_unit * hidden, taps * (dtype.itemsize + 8))


def choose(
    batch: int,
    num_joints: int,
    steps: int,
    hidden: int,
    dtype: torch.dtype,
    *,
    shared_memory: int,
    graphed: bool = False,
    available: tuple[str, ...] = ("cuda", "triton"),
) -> str:
    """The implementation for a call on a GPU: "cuda", "triton" or "reference".

    Args:
        dtype: of the joints, float32 or float64.
        shared_memory: bytes that the GPU grants a block.
        graphed: the call is being compiled or captured, so that the host's time does not count.
        available: which of CUDA and Triton are built and installed.
    """
    triton = "triton" in available and dtype != torch.float64
    fits = num_joints <= CUDA_MAX_JOINTS and cuda_bytes(num_joints, steps, hidden, dtype) <= shared_memory
    cuda = "cuda" in available and fits
    if cuda and (not triton or (batch <= SMALL_BATCH and not graphed)):
        return "cuda"
    return "triton" if triton else "reference"


def refine(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach, *, implementations) -> Tensor:
    """As the reference, for CUDA tensors, by the implementation that :func:`choose` names.

    Args:
        implementations: functions by name: "reference", and "cuda" and "triton" where they can run.
    """
    batch, num_joints, _ = joints.shape
    steps, hidden, _ = w1.shape
    compiling = torch.compiler.is_compiling()
    name = choose(
        batch,
        num_joints,
        steps,
        hidden,
        joints.dtype,
        # torch.compile cannot trace the question; there only float64 runs in CUDA
        shared_memory=sys.maxsize if compiling else shared_memory_of(joints.device.index),
        graphed=compiling or torch.cuda.is_current_stream_capturing(),
        available=tuple(implementations),
    )
    if name == "reference":
        warnings.warn(
            f"amt.kernels.refine runs as 'reference': no kernel takes {num_joints} joints, {steps} steps and {hidden} hidden "
            f"units in {joints.dtype} on this GPU",
            stacklevel=3,
        )
    return implementations[name](joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach)


@functools.cache
def shared_memory_of(device_index: int) -> int:
    """Bytes of shared memory that this GPU grants a block."""
    properties = torch.cuda.get_device_properties(device_index)
    return getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
