"""``hand_frames`` in C++ and CUDA: the function that the dispatch takes. The kernels stand in csrc/hand_frames."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.hand_frames import autograd

_op = torch.ops.amt.hand_frames.default
autograd.register("amt::hand_frames", "amt::hand_frames_backward")


def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    """As ``amt.kernels.hand_frames``, on float32 or float64 [B, 21, 3] on a CPU or a CUDA device; strides are free."""
    return autograd.call(_op, joints)
