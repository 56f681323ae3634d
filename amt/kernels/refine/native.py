"""``refine`` by the native library (csrc), on the CPU and on CUDA: calls its op, and registers the op's fake and autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.refine import autograd

# As in csrc: rows of a packed tile, and the most packed tiles of a chunk of images.
PACKED_ROWS, MOST_PACKED = 32, 4

_OPS = autograd.Ops("the native library", torch.ops.amt.refine.default, torch.ops.amt.refine_backward.default)


def refine(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach) -> Tensor:
    """As the reference. Strides of the maps, and of the first two dimensions of ``w1``, are free; the others are copied."""
    joints, intrinsics = joints.contiguous(), intrinsics.contiguous()
    # w1 may stay expanded over the steps, or a slice; the others are small
    w1 = w1 if w1.stride()[2] == 1 else w1.contiguous()
    b1, w2, b2 = b1.contiguous(), w2.contiguous(), b2.contiguous()
    save = autograd.is_needed(joints, intrinsics, maps, w1, b1, w2, b2)
    return autograd.call(_OPS, save, joints, intrinsics, maps, w1, b1, w2, b2, *image_size, step_size, detach, save)


def _fake(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, save):
    # PyTorch comes here where a single tensor of several is on meta
    if any(t.device != joints.device for t in (intrinsics, *maps, w1, b1, w2, b2)):
        raise RuntimeError("refine: all tensors must be on one device")
    steps = joints.new_empty(joints.shape[0], w1.shape[0], joints.shape[1], 3)
    return steps, joints.new_empty(_saved_shape(joints, w1) if save else (0,))


def _saved_shape(joints: Tensor, w1: Tensor) -> tuple[int, ...]:
    """Of the pre-activations that the forward saves; their layout is the back end's own."""
    batch, num_joints = joints.shape[:2]
    steps, hidden = w1.shape[:2]
    if joints.device.type == "cuda":
        return (batch, steps, num_joints, hidden)
    images, rows = plan(num_joints)
    return (-(-batch // images) * steps * hidden * rows if num_joints > 0 else 0,)


def plan(num_joints: int) -> tuple[int, int]:
    """Images of a chunk on the CPU, and its rows rounded up to whole packed tiles: ``Plan`` in csrc."""

    def padded(images: int) -> int:
        return -(-images * num_joints // PACKED_ROWS) * PACKED_ROWS

    best = 1
    if num_joints > 0:
        for images in range(2, MOST_PACKED * PACKED_ROWS // num_joints + 1):
            if best * padded(images) < images * padded(best):
                best = images
    return best, padded(best)


torch.library.register_fake("amt::refine", _fake)
autograd.register(_OPS)
