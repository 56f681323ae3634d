"""From the network's numbers to metric space: the one place where rotations, MANO and the camera meet. Always float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amt.hand.mano import ManoLayer
from amt.hand.rotations import six_d_to_matrix
from amt.model.coarse_decoder import Parameters
from amt.model.placement import keypoint_rays, locate, place, view_rotation
from amt.model.precision import coordinates
from amt.model.wrist import WristSolver

OFFSET_UNIT = 0.1  # m


class Scene(NamedTuple):
    """Hand and object in the camera's frame."""

    joints: Tensor  # [B, 21, 3], m
    vertices: Tensor  # [B, 778, 3], m
    pose: Tensor  # [B, 16, 3, 3]
    betas: Tensor  # [B, 10]
    translation: Tensor  # [B, 3], m
    object_rotation: Tensor  # [B, 3, 3]
    object_translation: Tensor  # [B, 3], m

    def detach(self) -> Scene:
        return Scene(*(value.detach() for value in self))


@coordinates
def coarse_scene(
    parameters: Parameters, mano: ManoLayer, solver: WristSolver, keypoints: Tensor, intrinsics: Tensor, size: int
) -> tuple[Scene, Parameters]:
    """Poses the hand, finds where it fits its keypoints [B, 21, 2] (half crops), and says so in the returned parameters.

    Args:
        intrinsics: K of the crop [B, 3, 3], px of a crop of ``size`` px.
    """
    guess = place(parameters.wrist, intrinsics, size)
    hand = _posed(parameters, mano, intrinsics, size)
    wrist = solver(guess, hand.joints, keypoint_rays(keypoints, intrinsics, size))
    return _placed(hand, wrist), parameters._replace(wrist=locate(wrist, intrinsics, size))


@coordinates
def build_scene(parameters: Parameters, mano: ManoLayer, intrinsics: Tensor, size: int) -> Scene:
    """Poses the hand with MANO and places hand and object in front of the crop's camera (K [B, 3, 3], size in px)."""
    return _placed(_posed(parameters, mano, intrinsics, size), place(parameters.wrist, intrinsics, size))


def _posed(parameters: Parameters, mano: ManoLayer, intrinsics: Tensor, size: int) -> Scene:
    """The scene with the wrist in the camera."""
    view = view_rotation(intrinsics, size)
    pose = six_d_to_matrix(parameters.hand_six_d)
    pose = torch.cat(((view @ pose[:, 0])[:, None], pose[:, 1:]), dim=1)
    translation = -mano.rest_joints(parameters.betas)[:, 0]
    mesh = mano(pose, parameters.betas, translation)
    return Scene(
        joints=mesh.joints,
        vertices=mesh.vertices,
        pose=pose,
        betas=parameters.betas,
        translation=translation,
        object_rotation=view @ six_d_to_matrix(parameters.object_six_d),
        object_translation=(view @ parameters.object_offset[..., None])[..., 0] * OFFSET_UNIT,
    )


def _placed(scene: Scene, wrist: Tensor) -> Scene:
    return scene._replace(
        joints=scene.joints + wrist[:, None],
        vertices=scene.vertices + wrist[:, None],
        translation=scene.translation + wrist,
        object_translation=scene.object_translation + wrist,
    )


@coordinates
def posed_points(points: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Object points [B, P, 3] (m) in the camera's frame."""
    return points @ rotation.mT + translation[:, None]


@coordinates
def seen_from(points: Tensor, origin: Tensor, rotation: Tensor) -> Tensor:
    """Points [B, P, 3] (m) in the frame with this origin [B, 3] and these axes [B, 3, 3]."""
    return (points - origin[:, None]) @ rotation
