"""The whole model in one sitting: crop and camera in, hand, object and contact in metric camera space out.

crop, K ─ backbone ─ neck ──────────────────────────────────────────────┐ maps
             │ tokens                                       keypoints ──┤
             ├ coarse decoder ─ scene solver ─ scene (MANO, object)     │
             │        └ hand, object and contact encoders ─ tokens      │
             └───────── fusion ── hand decoder ── joints ──────────── refine ─ joints, mesh
                               ├─ object decoder ── 6-DoF
                               └─ contact decoder ── logits
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.batch import Inputs
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.mirror import mirror_inputs
from amt.hand.objects import box_corners
from amt.hand.rotations import matrix_to_six_d
from amt.kernels import hand_frames
from amt.model.backbone import Normalize, build_backbone
from amt.model.coarse_decoder import HAND, OBJECT, CoarseDecoder, Parameters
from amt.model.config import ConfigError, ModelConfig
from amt.model.decoders import ContactDecoder, HandDecoder, ObjectDecoder
from amt.model.encoders import (
    PALM,
    ContactEncoder,
    HandEncoder,
    ObjectEncoder,
    PlaceEncoder,
    nearest_distances,
    vertex_distances,
)
from amt.model.fusion import Fusion
from amt.model.keypoints import KeypointHead
from amt.model.neck import Neck
from amt.model.outputs import Prediction
from amt.model.placement import camera_features, view_rotation
from amt.model.pose import OFFSET_UNIT, Scene, SceneSolver, build_scene, posed_points, seen_from
from amt.model.refinement import Refinement
from amt.model.summary import Summary, summarize


class AMT(nn.Module):
    """Hand and object from one image. Sees :class:`Inputs`, never a label, in training as in use.

    The network knows right hands only: a left hand's image is mirrored on the way in and the answer on the way out.
    Coordinates are float32 whatever autocast is on. Raises ConfigError where the hand model or weights cannot be had.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # relations on the hand are computed from its arrays, under torch.device("meta") too: they start on the CPU
        with torch.device("cpu"):
            self.mano = ManoLayer(_hand_model(config))
            mean_pose = _mean_pose(self.mano)
        self.normalize = Normalize()
        self.backbone = build_backbone(config)
        self.neck = Neck(config, self.backbone.map_channels)
        self.keypoints = KeypointHead(config)
        self.coarse_decoder = CoarseDecoder(config, mean_pose)
        self.scene_solver = SceneSolver()
        self.hand_encoder = HandEncoder(config) if config.hand_frames else PlaceEncoder(config)
        self.object_encoder = ObjectEncoder(config)
        self.contact_encoder = ContactEncoder(config, self.mano) if config.contact_tokens else None
        self.fusion = Fusion(config, num_groups=5 if config.contact_tokens else 4)
        self.hand_decoder = HandDecoder(config)
        self.object_decoder = ObjectDecoder(config)
        self.contact_decoder = ContactDecoder(config, self.mano)
        self.refinement = Refinement(config, self.mano)
        self.to(torch.get_default_device())

    def forward(self, inputs: Inputs) -> Prediction:
        """Predicts hand, object and contact.

        Args:
            inputs: crops of ``config.crop_size`` px with their cameras, the side of each hand, and the object's points.

        Returns:
            A :class:`Prediction` in the camera frame of the crops.

        Raises:
            ValueError: crops of another size.
        """
        size = self.config.crop_size
        if inputs.image.shape[1:] != (3, size, size):
            raise ValueError(f"inputs.image must be [B, 3, {size}, {size}], got {list(inputs.image.shape)}")
        left = ~inputs.right
        return self._right_hand(mirror_inputs(inputs, left)).mirrored(left)

    def _right_hand(self, inputs: Inputs) -> Prediction:
        size, intrinsics = self.config.crop_size, inputs.intrinsics
        view = view_rotation(intrinsics, size)

        features = self.backbone(self.normalize(inputs.image))
        maps = self.neck(features)
        keypoints = self.keypoints(maps[0])
        parameters, queries, class_logits = self.coarse_decoder(
            features.tokens, keypoints, camera_features(intrinsics, size), inputs.object_class
        )
        coarse, parameters = self.scene_solver(
            parameters, self.mano, keypoints, box_corners(inputs.object_points), intrinsics, size
        )

        # from here on the coarse scene is an observation: its own tokens are made of it, never of the labels
        scene, fixed = coarse.detach(), Parameters(*(p.detach() for p in parameters))
        origins, rotations = self._frames(scene.joints, view)
        points = posed_points(inputs.object_points, scene.object_rotation, scene.object_translation)
        palm = (origins[:, PALM], rotations[:, PALM])
        groups = [
            features.tokens,
            queries,
            self.hand_encoder(scene.vertices, origins, rotations, view),
            self.object_encoder(points, inputs.object_class, scene, fixed, palm, view),
        ]
        if self.contact_encoder is not None:
            from_vertex = vertex_distances(scene.vertices, points)
            groups.append(self.contact_encoder(points, origins, rotations, from_vertex))
        queries, hand, body, *contact = self.fusion(*groups)
        contact = contact[0] if contact else None

        six_d, betas, wrist, offsets, latent, hand_mean, hand_log_variance = self.hand_decoder(
            queries[:, HAND], hand, contact, rotations
        )
        object_six_d, object_offset, object_mean, object_log_variance = self.object_decoder(
            queries[:, OBJECT], body, contact
        )
        residual = Parameters(six_d, betas, wrist, object_six_d, object_offset)
        decoded = build_scene(parameters + residual, self.mano, intrinsics, size)
        decoded_joints = decoded.joints + offsets
        refined = self.refinement(decoded_joints, intrinsics, maps, latent, size)
        joints = refined[:, -1] if refined.shape[1] else decoded_joints
        vertices = self.refinement.follow_joints(decoded.vertices, joints - decoded.joints)
        decoded_vertices = self.refinement.follow_joints(decoded.vertices, offsets)

        hand_contact, object_contact = self._contact(inputs, vertices, joints, decoded, view, hand, contact)
        return Prediction(
            joints=joints,
            vertices=vertices,
            pose=decoded.pose,
            betas=decoded.betas,
            translation=decoded.translation,
            object_rotation=decoded.object_rotation,
            object_translation=decoded.object_translation,
            hand_contact=hand_contact,
            object_contact=object_contact,
            object_class=class_logits,
            refined_joints=refined,
            decoded_joints=decoded_joints,
            decoded_vertices=decoded_vertices,
            keypoints=keypoints.position,
            keypoint_depths=keypoints.depth,
            keypoint_maps=keypoints.log_maps,
            coarse_joints=coarse.joints,
            coarse_vertices=coarse.vertices,
            coarse_pose=coarse.pose,
            coarse_betas=coarse.betas,
            coarse_object_rotation=coarse.object_rotation,
            coarse_object_translation=coarse.object_translation,
            hand_mean=hand_mean,
            hand_log_variance=hand_log_variance,
            object_mean=object_mean,
            object_log_variance=object_log_variance,
        )

    def _frames(self, joints: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Origins [B, 22, 3] and rotations [B, 22, 3, 3] of joints [B, 21, 3]; without ``hand_frames`` the view's axes."""
        origins, rotations = hand_frames(joints.contiguous())
        return origins, rotations if self.config.hand_frames else view[:, None].expand_as(rotations).contiguous()

    def _contact(self, inputs: Inputs, vertices: Tensor, joints: Tensor, decoded: Scene, view: Tensor, hand, contact):
        """Contact logits where the final hand and the final object are; no gradient goes back through the distances."""
        with torch.no_grad():
            points = posed_points(inputs.object_points, decoded.object_rotation, decoded.object_translation)
            from_vertex, from_point, nearest = nearest_distances(vertices, points)
            origins, rotations = self._frames(joints, view)
            local = seen_from(points, origins[:, PALM], rotations[:, PALM]) / OFFSET_UNIT
        return self.contact_decoder(hand, contact, from_vertex, from_point, nearest, local)

    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def summary(self, batch_size: int = 8, num_points: int = 256) -> Summary:
        """Parameters, operations and training's memory of each part; ``print`` it. Nothing is computed."""
        return summarize(self, batch_size, num_points)


def _hand_model(config: ModelConfig) -> HandModel:
    if config.hand == "stand-in":
        from amt.hand.stand_in import stand_in_hand

        return stand_in_hand("right")
    from amt.hand.mano_file import load_mano

    try:
        model = load_mano(config.hand)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.hand: {error}; give the path of MANO_RIGHT.pkl, or stand-in") from error
    if model.side != "right":
        raise ConfigError(f"model.hand={config.hand}: expected a right hand's file (left hands are mirrored)")
    return model


def _mean_pose(mano: ManoLayer) -> Tensor:
    """The hand model's mean pose as 6D [16, 6], without a global turn."""
    from amt.hand.rotations import axis_angle_to_matrix

    axis_angle = torch.cat((torch.zeros(3), mano.hands_mean)).unflatten(0, (16, 3))
    return matrix_to_six_d(axis_angle_to_matrix(axis_angle))
