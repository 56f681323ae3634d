"""From the network's numbers to metric space: the one place where rotations, MANO and the camera meet. Always float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.hand.mano import ManoLayer
from amt.hand.rotations import matrix_to_six_d, six_d_to_matrix
from amt.hand.skeleton import NUM_JOINTS
from amt.model.coarse_decoder import Parameters
from amt.model.keypoints import CENTRE, FIRST_CORNER, Keypoints
from amt.model.orientation import OrientationSolver
from amt.model.placement import keypoint_rays, locate, place, view_rotation
from amt.model.precision import coordinates
from amt.model.wrist import Seen, WristSolver

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


class SceneSolver(nn.Module):
    """The coarse scene, made to fit its keypoints: wrist, then the turns of hand and object about it, each in closed form."""

    def __init__(self):
        super().__init__()
        self.wrist = WristSolver()
        self.hand, self.object = OrientationSolver(), OrientationSolver()

    @coordinates
    def forward(
        self,
        parameters: Parameters,
        mano: ManoLayer,
        keypoints: Keypoints,
        corners: Tensor,
        intrinsics: Tensor,
        size: int,
    ) -> tuple[Scene, Parameters]:
        """Poses hand and object, turns and moves them onto their keypoints, and says so in the returned parameters.

        Args:
            corners: of the box around the object's points, [B, 8, 3], m, in its own frame.
            intrinsics: K of the crop [B, 3, 3], px of a crop of ``size`` px.
        """
        scene = _posed(parameters, mano, intrinsics, size)  # the wrist in the camera
        rays = keypoint_rays(keypoints.position, intrinsics, size)
        joint_rays, joint_trust = rays[:, :NUM_JOINTS], keypoints.trust[:, :NUM_JOINTS]
        corner_rays, corner_trust = rays[:, FIRST_CORNER:], keypoints.trust[:, FIRST_CORNER:]
        wrist = self.wrist(place(parameters.wrist, intrinsics, size), Seen(scene.joints, joint_rays, joint_trust))

        depth = wrist[:, None, 2:] + keypoints.depth[..., None] * OFFSET_UNIT
        seen = torch.cat((rays, torch.ones_like(depth)), dim=-1) * depth - wrist[:, None]  # from the wrist, m
        hand_turn = self.hand(scene.joints, seen[:, :NUM_JOINTS], joint_trust)
        centre = seen[:, CENTRE]
        object_turn = self.object(
            corners @ scene.object_rotation.mT, seen[:, FIRST_CORNER:] - centre[:, None], corner_trust
        )
        scene = scene._replace(
            joints=scene.joints @ hand_turn.mT,
            vertices=scene.vertices @ hand_turn.mT,
            pose=torch.cat(((hand_turn @ scene.pose[:, 0])[:, None], scene.pose[:, 1:]), dim=1),
            object_rotation=object_turn @ scene.object_rotation,
            object_translation=torch.lerp(scene.object_translation, centre, keypoints.trust[:, CENTRE, None]),
        )
        box = posed_points(corners, scene.object_rotation, scene.object_translation)
        wrist = self.wrist(wrist, Seen(scene.joints, joint_rays, joint_trust), Seen(box, corner_rays, corner_trust))

        back = view_rotation(intrinsics, size).mT
        six_d = matrix_to_six_d(back @ scene.pose[:, 0])
        return _placed(scene, wrist), parameters._replace(
            hand_six_d=torch.cat((six_d[:, None], parameters.hand_six_d[:, 1:]), dim=1),
            wrist=locate(wrist, intrinsics, size),
            object_six_d=matrix_to_six_d(back @ scene.object_rotation),
            object_offset=(back @ scene.object_translation[..., None])[..., 0] / OFFSET_UNIT,
        )


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
