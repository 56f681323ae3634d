"""``hand_frames``: the 22 local coordinate frames of a hand from its 21 joints.

Frames, in this order: 0-4 fingertips, 5-9 bases of the fingers (thumb first), 10-19 the two joints between base and tip of
each finger, 20 the wrist, 21 the palm. The palm's frame comes from the wrist and the bases of index and little finger;
every other one is carried along the bones by the shortest arc, which keeps it steady when a finger is straight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _native, _triton
from amt.kernels.hand_frames import reference
from amt.kernels.hand_frames.reference import NUM_FRAMES, NUM_JOINTS

__all__ = ["NUM_FRAMES", "NUM_JOINTS", "hand_frames"]


def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Builds the frames of each hand.

    Under torch.func (vmap, grad, jvp, ...) and in forward-mode AD the reference runs, with one warning.

    Args:
        joints: float32 or float64 [B, 21, 3], any unit; wrist, then thumb to little finger, each from base to tip.

    Returns:
        origins [B, 22, 3] in the joints' unit and rotations [B, 22, 3, 3], whose columns are the axes x, y, z: right-handed,
        orthonormal, rotating with the hand. A bone of no length keeps its parent's frame, a flat palm takes the identity;
        gradients there are 0. NaN comes out only in the hand in which it came in.

    Raises:
        TypeError, ValueError: ``joints`` has another type, dtype or shape.
    """
    _checks.tensor("hand_frames", "joints", joints, ("B", NUM_JOINTS, 3), (torch.float32, torch.float64))
    return _backend.choose("hand_frames", joints.device, joints.dtype)(joints)


def _load_native():
    from amt.kernels.hand_frames.native import hand_frames

    return hand_frames


def _load_triton():
    from amt.kernels.hand_frames.triton import hand_frames

    return hand_frames


_backend.register(
    "hand_frames",
    [
        _backend.Implementation("cuda", _load_native, _native.reason_on("hand_frames", "cuda")),
        _backend.Implementation("native", _load_native, _native.reason_on("hand_frames", "cpu")),
        _backend.Implementation("triton", _load_triton, lambda device, dtype: _triton.missing(device)),
        _backend.Implementation(
            "reference", lambda: reference.hand_frames, _backend.runs_everywhere, fast=False, transforms=True
        ),
    ],
)
