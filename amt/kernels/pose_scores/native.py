"""``pose_scores`` in C++: the function that the dispatch takes. The kernels stand in csrc/pose_scores."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.pose_scores import autograd

_op = torch.ops.amt.pose_scores.default
autograd.register("amt::pose_scores", "amt::pose_scores_backward")


def pose_scores(colour, surface, points, normals, rotation, translation, intrinsics, image_size) -> Tensor:
    """As ``amt.kernels.pose_scores``, on CPU tensors; copies those that are not contiguous."""
    return autograd.call(_op, colour, surface, points, normals, rotation, translation, intrinsics, *image_size)
