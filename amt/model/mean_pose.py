"""The baseline of an evaluation: the mean hand and object of the training set, whatever the image shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from amt.hand.batch import Batch, Inputs
from amt.hand.mirror import mirror_inputs, mirror_points, mirror_rotations, mirror_targets
from amt.hand.objects import NUM_CLASSES
from amt.metrics.contact import best_constant_mask
from amt.model.camera import CropCamera


@dataclass(frozen=True)
class MeanPose:
    """Means over a training set, of right hands (left ones mirrored)."""

    joints: Tensor  # [21, 3], m: from the wrist
    position: Tensor  # [3]: the wrist's placement, see amt.model.camera.CropCamera
    object_offset: Tensor  # [22, 3], m: from the wrist, by class; the mean of all where a class is missing
    object_rotation: Tensor  # [22, 3, 3]
    hand_contact: Tensor  # bool [V]: the vertices that best tell contact if always the same are named

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> MeanPose:
        """The means over all valid samples of ``batches``, which are not augmented. Raises ValueError where there is none."""
        parts: dict[str, list[Tensor]] = {
            name: [] for name in ("joints", "position", "offset", "rotation", "kind", "contact")
        }
        for batch in batches:
            left = ~batch.inputs.right
            inputs, targets = mirror_inputs(batch.inputs, left), mirror_targets(batch.targets, left)
            hand, both = targets.hand_valid, targets.hand_valid & targets.object_valid
            wrist = targets.joints[:, 0]
            camera = CropCamera.of(inputs.intrinsics, inputs.image.shape[-1])
            parts["joints"].append((targets.joints - wrist[:, None])[hand])
            parts["position"].append(camera.placement(wrist)[hand])
            parts["offset"].append((targets.object_translation - wrist)[both])
            parts["rotation"].append(targets.object_rotation[both])
            parts["kind"].append(inputs.object_class[both])
            parts["contact"].append(targets.hand_contact[targets.contact_valid].float())
        joined = {name: torch.cat(values) for name, values in parts.items()}
        if not len(joined["joints"]):
            raise ValueError("the mean-pose baseline needs training frames with a labelled hand; there is none")
        offsets, rotations = [], []
        for kind in range(NUM_CLASSES):
            mine = joined["kind"] == kind
            mine = mine if mine.any() else torch.ones_like(mine)
            offsets.append(joined["offset"][mine].mean(dim=0) if len(mine) else torch.zeros(3))
            rotations.append(_mean_rotation(joined["rotation"][mine]))
        return cls(
            joints=joined["joints"].mean(dim=0),
            position=joined["position"].mean(dim=0),
            object_offset=torch.stack(offsets),
            object_rotation=torch.stack(rotations),
            hand_contact=best_constant_mask(joined["contact"]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The means by name; ``MeanPose(**tensors)`` is the inverse."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def predict(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Joints [B, 21, 3], object rotation [B, 3, 3] and translation [B, 3]: the means, placed by each crop's box and K."""
        left = ~inputs.right
        right = mirror_inputs(inputs, left)
        camera = CropCamera.of(right.intrinsics, right.image.shape[-1])
        wrist = camera.unproject(self.position.expand(inputs.batch_size, 3))
        joints = self.joints + wrist[:, None]
        translation = self.object_offset[inputs.object_class] + wrist
        rotation = self.object_rotation[inputs.object_class]
        return (
            torch.where(left[:, None, None], mirror_points(joints), joints),
            torch.where(left[:, None, None], mirror_rotations(rotation), rotation),
            torch.where(left[:, None], mirror_points(translation), translation),
        )


def _mean_rotation(rotations: Tensor) -> Tensor:
    """The rotation nearest to all of [N, 3, 3] in the sum of squares."""
    if not len(rotations):
        return torch.eye(3)
    u, _, vh = torch.linalg.svd(rotations.double().mean(dim=0))
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.det(u @ vh)
    return (u * sign @ vh).float()
