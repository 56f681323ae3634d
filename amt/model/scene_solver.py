"""The coarse scene, made to fit its keypoints in closed form."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from amt.hand.mano import ManoLayer
from amt.hand.rotations import matrix_to_six_d
from amt.hand.skeleton import NUM_JOINTS
from amt.model.camera import CropCamera
from amt.model.config import ModelConfig
from amt.model.keypoints import CENTRE, FIRST_CORNER, Keypoints
from amt.model.orientation import OrientationSolver
from amt.model.precision import coordinates
from amt.model.scene import OFFSET_UNIT, Parameters, Scene, posed_points, rotated_hand, wrist_scene
from amt.model.wrist import Seen, WristSolver


class SceneSolver(nn.Module):
    """Finds the wrist, rotates hand and object about it and finds the wrist again, with the object's box this time.

    Without corners among the keypoints the object keeps its guessed rotation, and says nothing of the wrist's distance.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.wrist, self.hand = WristSolver(), OrientationSolver()
        self.object = OrientationSolver() if config.corners else None

    @coordinates
    def forward(
        self, parameters: Parameters, mano: ManoLayer, keypoints: Keypoints, corners: Tensor, camera: CropCamera
    ) -> tuple[Scene, Parameters]:
        """The scene that fits the keypoints, and its parameters, to which the decoders add residuals.

        Args:
            parameters: the coarse decoder's guess.
            corners: of the box around the object's points, [B, 8, 3], m, in its own frame; read with ``corners`` only.
        """
        scene = wrist_scene(parameters, mano, camera)
        rays = camera.rays(keypoints.position)
        joint_rays, joint_trust = rays[:, :NUM_JOINTS], keypoints.trust[:, :NUM_JOINTS]
        corner_rays, corner_trust = rays[:, FIRST_CORNER:], keypoints.trust[:, FIRST_CORNER:]
        wrist = self.wrist(camera.unproject(parameters.wrist), Seen(scene.joints, joint_rays, joint_trust))

        seen = keypoints.lifted(wrist[:, 2], camera) - wrist[:, None]
        centre = seen[:, CENTRE]
        hand = self.hand(scene.joints, seen[:, :NUM_JOINTS], joint_trust)
        rotation = scene.object_rotation
        if self.object is not None:
            seen_box = seen[:, FIRST_CORNER:] - centre[:, None]
            rotation = self.object(corners @ rotation.mT, seen_box, corner_trust) @ rotation
        scene = replace(
            scene,
            joints=scene.joints @ hand.mT,
            vertices=scene.vertices @ hand.mT,
            pose=rotated_hand(scene.pose, hand),
            object_rotation=rotation,
            object_translation=torch.lerp(scene.object_translation, centre, keypoints.trust[:, CENTRE, None]),
        )
        box = None
        if self.object is not None:
            points = posed_points(corners, scene.object_rotation, scene.object_translation)
            box = Seen(points, corner_rays, corner_trust)
        wrist = self.wrist(wrist, Seen(scene.joints, joint_rays, joint_trust), box)
        return scene.moved(wrist), _solved(parameters, scene, wrist, camera)


def _solved(parameters: Parameters, scene: Scene, wrist: Tensor, camera: CropCamera) -> Parameters:
    """The parameters of a scene whose wrist is at the origin; shape and fingers are those of ``parameters``."""
    to_view = camera.view.mT
    hand = matrix_to_six_d(to_view @ scene.pose[:, 0])
    return parameters._replace(
        hand_six_d=torch.cat((hand[:, None], parameters.hand_six_d[:, 1:]), dim=1),
        wrist=camera.placement(wrist),
        object_six_d=matrix_to_six_d(to_view @ scene.object_rotation),
        object_offset=(to_view @ scene.object_translation[..., None])[..., 0] / OFFSET_UNIT,
    )
