"""What the model returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

from amt.hand.batch import _TensorFields
from amt.hand.mirror import mirror_points, mirror_rotations
from amt.model.keypoints import MIRRORED


@dataclass(frozen=True)
class Prediction(_TensorFields):
    """Hand, object and contact of B images in the camera frame of the crop: metres, x right, y down, z forward.

    Where a left hand was asked for, everything is that left hand's (its ``pose`` and ``betas`` belong to a left hand model).
    All float32; P is the number of object points that came in, S the number of refinement steps.
    """

    joints: Tensor  # [B, 21, 3], m: the answer: the last of refined_joints, or decoded_joints where there is no step
    vertices: Tensor  # [B, 778, 3], m: the answer's mesh; follows ``joints``
    pose: Tensor  # [B, 16, 3, 3]: MANO's rotations, the first global, the others relative to their parents
    betas: Tensor  # [B, 10]
    translation: (
        Tensor  # [B, 3], m: MANO's, so that ``pose``, ``betas`` and this give the decoded mesh before refinement
    )
    object_rotation: Tensor  # [B, 3, 3], object to camera
    object_translation: Tensor  # [B, 3], m
    hand_contact: Tensor  # [B, 778], logits: the vertex touches the object
    object_contact: Tensor  # [B, P], logits: the object point touches the hand
    object_class: Tensor  # [B, 22], logits read from the image alone, whatever class came in; 0 stands for unknown
    refined_joints: Tensor  # [B, S, 21, 3], m: after each refinement step
    decoded_joints: Tensor  # [B, 21, 3], m: where the refinement starts
    decoded_vertices: Tensor  # [B, 778, 3], m
    keypoints: Tensor  # [B, 30, 2]: joints, object's origin and box corners in the crop, half crops from its centre
    keypoint_depths: Tensor  # [B, 30], 0.1 m behind the wrist
    keypoint_maps: Tensor  # [B, 30, H, W]: log probability of each cell of the fine map to hold the keypoint
    coarse_joints: Tensor  # [B, 21, 3], m: the coarse decoder's; the hand frames stand on these
    coarse_vertices: Tensor  # [B, 778, 3], m
    coarse_pose: Tensor  # [B, 16, 3, 3]
    coarse_betas: Tensor  # [B, 10]
    coarse_object_rotation: Tensor  # [B, 3, 3]
    coarse_object_translation: Tensor  # [B, 3], m
    hand_mean: Tensor  # [B, latent]: mean of the hand's latent
    hand_log_variance: Tensor  # [B, latent]
    object_mean: Tensor  # [B, latent]
    object_log_variance: Tensor  # [B, latent]

    def mirrored(self, which: Tensor) -> Prediction:
        """The prediction of the mirrored scene where ``which`` [B] (bool) is True: x becomes -x."""
        flipped = self.keypoints[:, MIRRORED] * self.keypoints.new_tensor((-1, 1))
        return replace(
            self,
            keypoints=torch.where(which[:, None, None], flipped, self.keypoints),
            keypoint_depths=torch.where(which[:, None], self.keypoint_depths[:, MIRRORED], self.keypoint_depths),
            keypoint_maps=_mirror_where(which, lambda maps: maps[:, MIRRORED].flip(-1), self.keypoint_maps),
            **{name: _mirror_where(which, mirror_points, getattr(self, name)) for name in _POINTS},
            **{name: _mirror_where(which, mirror_rotations, getattr(self, name)) for name in _ROTATIONS},
        )


register_dataclass(Prediction, serialized_type_name="amt.Prediction")  # torch.export returns it as a tree of tensors

_POINTS = (
    "joints",
    "vertices",
    "translation",
    "object_translation",
    "refined_joints",
    "decoded_joints",
    "decoded_vertices",
    "coarse_joints",
    "coarse_vertices",
    "coarse_object_translation",
)
_ROTATIONS = ("pose", "object_rotation", "coarse_pose", "coarse_object_rotation")


def _mirror_where(which: Tensor, mirror, value: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (value.dim() - 1)), mirror(value), value)
