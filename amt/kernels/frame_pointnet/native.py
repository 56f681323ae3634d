"""``frame_pointnet`` in C++: the function that the dispatch takes. The kernels stand in csrc/frame_pointnet."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.frame_pointnet import autograd

_op = torch.ops.amt.frame_pointnet.default
autograd.register("amt::frame_pointnet", "amt::frame_pointnet_backward")


def frame_pointnet(points, origins, rotations, w1, b1, w2, b2, mask=None) -> Tensor:
    """As ``amt.kernels.frame_pointnet``, on CPU tensors. Sums are in the points' dtype."""
    # Weights of two bytes are exact in float32, which these CPUs multiply twice as fast as bf16 pairs (AMX aside).
    w1, b1, w2, b2 = (weight.to(points.dtype) for weight in (w1, b1, w2, b2))
    return _op(points, origins, rotations, w1, b1, w2, b2, mask)[0]
