"""Hand and object, as the network's numbers and as metres in the camera's frame; MANO is posed here. Always float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from amt.hand.mano import ManoLayer
from amt.hand.mirror import choose, mirror_points, mirror_rotations
from amt.hand.rotations import matrix_to_six_d, six_d_to_matrix
from amt.hand.tensors import TensorFields, exported
from amt.model.camera import CropCamera
from amt.model.precision import coordinates

OFFSET_UNIT = 0.1  # m


class Parameters(NamedTuple):
    """Hand and object as numbers of about unit size, in the axes of the crop's view. Decoders add residuals to them."""

    hand_six_d: Tensor  # [B, 16, 6]
    betas: Tensor  # [B, 10]
    wrist: Tensor  # [B, 3]: a placement, see CropCamera
    object_six_d: Tensor  # [B, 6]
    object_offset: Tensor  # [B, 3], 0.1 m: the object's origin from the wrist

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(*(a + b for a, b in zip(self, other, strict=True)))

    def detach(self) -> Parameters:
        return Parameters(*(value.detach() for value in self))


@exported
@dataclass(frozen=True)
class Scene(TensorFields):
    """Hand and object in the camera's frame. The MANO layer gives ``joints`` and ``vertices`` for the three parameters."""

    joints: Tensor  # [B, 21, 3], m
    vertices: Tensor  # [B, V, 3], m
    pose: Tensor  # [B, 16, 3, 3]: MANO's rotations, the first global, the others relative to their parents
    betas: Tensor  # [B, 10]: MANO's shape
    translation: Tensor  # [B, 3], m: MANO's; the wrist is J0(betas) + translation
    object_rotation: Tensor  # [B, 3, 3], object to camera
    object_translation: Tensor  # [B, 3], m

    def mirrored(self, which: Tensor) -> Scene:
        """The mirrored scene, x to -x, where ``which`` [B] (bool) is True."""

        def mirror(function, *names: str) -> dict[str, Tensor]:
            return {name: choose(which, function(getattr(self, name)), getattr(self, name)) for name in names}

        return replace(
            self,
            **mirror(mirror_points, "joints", "vertices", "translation", "object_translation"),
            **mirror(mirror_rotations, "pose", "object_rotation"),
        )

    def posed(self, points: Tensor) -> Tensor:
        """Object points [B, P, 3] (m) of the object's own frame, in the camera's."""
        return posed_points(points, self.object_rotation, self.object_translation)

    def moved(self, offset: Tensor) -> Scene:
        """The scene moved by ``offset`` [B, 3] (m)."""
        return replace(
            self,
            joints=self.joints + offset[:, None],
            vertices=self.vertices + offset[:, None],
            translation=self.translation + offset,
            object_translation=self.object_translation + offset,
        )


@coordinates
def build_scene(parameters: Parameters, mano: ManoLayer, camera: CropCamera) -> Scene:
    """The scene in the camera's frame."""
    return wrist_scene(parameters, mano, camera).moved(camera.unproject(parameters.wrist))


@coordinates
def wrist_scene(parameters: Parameters, mano: ManoLayer, camera: CropCamera) -> Scene:
    """The scene in the camera's axes with the wrist at the origin."""
    pose = rotated_hand(six_d_to_matrix(parameters.hand_six_d), camera.view)
    translation = -mano.rest_joints(parameters.betas)[:, 0]
    mesh = mano(pose, parameters.betas, translation)
    return Scene(
        joints=mesh.joints,
        vertices=mesh.vertices,
        pose=pose,
        betas=parameters.betas,
        translation=translation,
        object_rotation=camera.view @ six_d_to_matrix(parameters.object_six_d),
        object_translation=(camera.view @ parameters.object_offset[..., None])[..., 0] * OFFSET_UNIT,
    )


@coordinates
def place_object(
    scene: Scene, parameters: Parameters, rotation: Tensor, translation: Tensor, look: Tensor, camera: CropCamera
) -> tuple[Scene, Parameters]:
    """The scene and its parameters with the object in another pose, where anything is known of its points' looks.

    Args:
        rotation, translation: [B, 1, 3, 3] and [B, 1, 3] (m), object to camera.
        look: [B, P, 7], see :class:`amt.hand.batch.Inputs`; zeros where nothing is known.
    """
    known = (look != 0).flatten(1).any(dim=1)
    rotation = choose(known, rotation[:, 0], scene.object_rotation)
    translation = choose(known, translation[:, 0], scene.object_translation)
    to_view = camera.view.mT
    offset = (to_view @ (translation - scene.joints[:, 0])[..., None])[..., 0] / OFFSET_UNIT
    parameters = parameters._replace(
        object_six_d=choose(known, matrix_to_six_d(to_view @ rotation), parameters.object_six_d),
        object_offset=choose(known, offset, parameters.object_offset),
    )
    return replace(scene, object_rotation=rotation, object_translation=translation), parameters


def rotated_hand(pose: Tensor, rotation: Tensor) -> Tensor:
    """A pose [B, 16, 3, 3] whose global rotation is followed by another one [B, 3, 3]."""
    return torch.cat(((rotation @ pose[:, 0])[:, None], pose[:, 1:]), dim=1)


@coordinates
def posed_points(points: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Points [B, P, 3] (m) of an object's own frame, in the camera's."""
    return points @ rotation.mT + translation[:, None]


@coordinates
def in_frame(points: Tensor, origin: Tensor, rotation: Tensor) -> Tensor:
    """Points [B, P, 3] (m) in the frame with this origin [B, 3] and these axes [B, 3, 3]."""
    return (points - origin[:, None]) @ rotation
