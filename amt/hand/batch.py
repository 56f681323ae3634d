"""What data hands to the model: the inputs it may look at, and the targets that only losses and metrics may see.

The two are separate types on purpose. A model whose ``forward`` takes :class:`Inputs` cannot read a label, so it cannot
be fed by labels in training and by itself in use.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass


class _TensorFields:
    """Moves and indexes every tensor of a dataclass, nested ones included."""

    def map(self, function):
        """A copy with ``function`` applied to each tensor; ``None`` stays ``None``."""

        def apply(value):
            if isinstance(value, Tensor):
                return function(value)
            return value.map(function) if isinstance(value, _TensorFields) else value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False):
        """A copy on ``device``; dtypes are kept, so that labels stay float32 under mixed precision."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def __getitem__(self, index):
        """A copy with ``tensor[index]`` taken of every tensor: a slice, a mask or indices over the batch."""
        return self.map(lambda tensor: tensor[index])


@dataclass(frozen=True)
class Inputs(_TensorFields):
    """All that is known before anything is predicted. B images, crops of S x S pixels, P object points."""

    image: Tensor  # uint8 [B, 3, S, S], RGB: the square crop around hand and object
    intrinsics: Tensor  # float32 [B, 3, 3], px: K of the crop (cropping changes K)
    box: Tensor  # float32 [B, 3], px: centre x, centre y and side of the crop in the full frame
    frame_intrinsics: Tensor  # float32 [B, 3, 3], px: K of the full frame
    frame_size: Tensor  # float32 [B, 2], px: height and width of the full frame
    right: Tensor  # bool [B]: True for a right hand
    object_class: Tensor  # int64 [B]: 1-21 as in YCB, 0 where the object is not known
    object_points: Tensor  # float32 [B, P, 3], m: points on the object's surface in the object's own frame

    @property
    def batch_size(self) -> int:
        return self.image.shape[0]


@dataclass(frozen=True)
class Targets(_TensorFields):
    """What the frame's annotation says, in the camera frame of the crop (metres, x right, y down, z forward).

    Where a flag is False, the matching fields hold finite fillers and must not be scored.
    """

    joints: Tensor  # float32 [B, 21, 3], m: order of amt.hand.skeleton.JOINT_NAMES
    pose: Tensor  # float32 [B, 48], axis-angle: global turn, then 15 joints in MANO's order, hands_mean included
    betas: Tensor  # float32 [B, 10]
    translation: Tensor  # float32 [B, 3], m: MANO's, the wrist is J0(betas) + translation
    vertices: Tensor  # float32 [B, 778, 3], m
    object_rotation: Tensor  # float32 [B, 3, 3], object to camera
    object_translation: Tensor  # float32 [B, 3], m
    hand_contact: Tensor  # bool [B, 778]: vertex touches the object
    object_contact: Tensor  # bool [B, P]: object point touches the hand
    hand_valid: Tensor  # bool [B]
    object_valid: Tensor  # bool [B]
    contact_valid: Tensor  # bool [B]


@dataclass(frozen=True)
class Batch(_TensorFields):
    """One batch: ``model(batch.inputs)`` predicts, ``batch.targets`` judges."""

    inputs: Inputs
    targets: Targets
    index: Tensor  # int64 [B]: the frame's index in the reader (DexYCB's own sample index)


# torch.export takes and returns them as trees of tensors
for _class in (Inputs, Targets, Batch):
    register_dataclass(_class, serialized_type_name=f"amt.{_class.__name__}")
