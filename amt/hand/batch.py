"""What data hands to the model: the inputs it may look at, and the targets that only losses and metrics may see.

The two are separate types on purpose. A model whose ``forward`` takes :class:`Inputs` cannot read a label, so it cannot
be fed by labels in training and by itself in use.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from amt.hand.tensors import TensorFields, exported


@exported
@dataclass(frozen=True)
class Inputs(TensorFields):
    """All that is known before anything is predicted. B images, crops of S x S pixels, P object points."""

    image: Tensor  # uint8 [B, 3, S, S], RGB: the square crop around hand and object
    intrinsics: Tensor  # float32 [B, 3, 3], px: K of the crop (cropping changes K)
    box: Tensor  # float32 [B, 3], px: centre x, centre y and side of the crop in the full frame
    frame_intrinsics: Tensor  # float32 [B, 3, 3], px: K of the full frame
    frame_size: Tensor  # float32 [B, 2], px: height and width of the full frame
    right: Tensor  # bool [B]: True for a right hand
    object_class: Tensor  # int64 [B]: 1-21 as in YCB, 0 where the object is not known
    object_points: Tensor  # float32 [B, P, 3], m: points on the object's surface in the object's own frame
    # float32 [B, P, 7]: each point's outward unit normal (zeros: unknown), its colour (sRGB, 0 to 1) and whether that is known
    # (1 or 0); None: nothing is known
    object_look: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.image.shape[0]


@exported
@dataclass(frozen=True)
class Targets(TensorFields):
    """What the frame's annotation says, in the camera frame of the crop (metres, x right, y down, z forward).

    Where a flag is False, the matching fields hold finite fillers and must not be scored.
    """

    joints: Tensor  # float32 [B, 21, 3], m: order of amt.hand.skeleton.JOINT_NAMES
    pose: Tensor  # float32 [B, 48], axis-angle: global rotation, then 15 joints in MANO's order, hands_mean included
    betas: Tensor  # float32 [B, 10]
    translation: Tensor  # float32 [B, 3], m: MANO's, the wrist is J0(betas) + translation
    vertices: Tensor  # float32 [B, V, 3], m
    object_rotation: Tensor  # float32 [B, 3, 3], object to camera
    object_translation: Tensor  # float32 [B, 3], m
    hand_contact: Tensor  # bool [B, V]: vertex touches the object
    object_contact: Tensor  # bool [B, P]: object point touches the hand
    hand_valid: Tensor  # bool [B]
    object_valid: Tensor  # bool [B]
    contact_valid: Tensor  # bool [B]
    joint_visible: Tensor | None = None  # bool [B, 21]: nothing hides the joint; None: nobody knows
    visibility_valid: Tensor | None = None  # bool [B]; None: nobody knows
    object_symmetric: Tensor | None = None  # bool [B]: looks the same after some rotation; None: as YCB's class says


@exported
@dataclass(frozen=True)
class Batch(TensorFields):
    """One batch: ``model(batch.inputs)`` predicts, ``batch.targets`` judges."""

    inputs: Inputs
    targets: Targets
    index: Tensor  # int64 [B]: the frame's index in the reader (DexYCB's own sample index)
    window: Tensor | None = (
        None  # int64 [B]: equal for the frames of one window, which follow each other in time; None: single
    )
