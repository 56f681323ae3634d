"""The hand's 22 frames, as the encoders and decoders take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from amt.kernels.hand_frames import NUM_FRAMES

WRIST, PALM = NUM_FRAMES - 2, NUM_FRAMES - 1
# the frame at each joint in the skeleton's order: wrist, then base, two middle joints and tip of each finger
JOINT_FRAMES = (20, *(f for i in range(5) for f in (5 + i, 10 + 2 * i, 11 + 2 * i, i)))


class Frames(NamedTuple):
    """Origins and axes; see :func:`amt.kernels.hand_frames`."""

    origins: Tensor  # [B, 22, 3], m
    rotations: Tensor  # [B, 22, 3, 3]

    def palm(self) -> tuple[Tensor, Tensor]:
        """The palm's origin [B, 3] (m) and axes [B, 3, 3]."""
        return self.origins[:, PALM], self.rotations[:, PALM]
