"""What the hand holds: how many classes of objects there are, and the box around an object's points."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from amt.kernels.constant import constant

NUM_CLASSES = 22  # YCB's 21, and 0 for an unknown object
# YCB's objects that look the same after some rotation: bowl, wood block, both clamps, foam brick (Xiang et al., "PoseCNN",
# RSS 2018, scores these by ADD-S).
SYMMETRIC_CLASSES = (13, 16, 19, 20, 21)
NUM_CORNERS = 8
# Corner 4x + 2y + z, where 1 stands for the greater coordinate. Keypoints are trained in this order: it is part of a
# checkpoint's meaning.
_GREATER = tuple(tuple(bool(corner >> bit & 1) for bit in (2, 1, 0)) for corner in range(NUM_CORNERS))


def box_corners(points: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Corners of the axis-aligned box around points, in the points' own frame.

    Args:
        points: [..., P, 3], m.

    Returns:
        [..., 8, 3], m, a tensor or an array as ``points`` is. Corner 4x + 2y + z has the greater coordinate along each
        axis whose digit is 1: corner 0 is the least of all three, corner 4 has the greatest x, corner 7 the greatest of all.
    """
    if isinstance(points, Tensor):
        low, high = points.amin(dim=-2, keepdim=True), points.amax(dim=-2, keepdim=True)
        return torch.where(constant(_GREATER, points, torch.bool), high, low)
    return np.where(_GREATER, points.max(-2, keepdims=True), points.min(-2, keepdims=True))
