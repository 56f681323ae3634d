"""The whole model in one sitting: crop and camera in, hand, object and contact in metric camera space out.

crop, K ─ backbone ─ neck ────────────────────────────────────────────────┐ maps
             │ tokens                                keypoints, outline ──┤
             ├ coarse decoder ─ scene solver ─ pose search ── coarse scene┤
             │        └ hand, object and contact encoders ─ tokens        │
             └────── fusion ── hand decoder ──┐                           │
                        ├──── object decoder ─┴ decoded scene ─────── refinement ─ joints, mesh
                        └──── contact decoder ─ contact
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.batch import Inputs
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.mirror import mirror_inputs
from amt.hand.objects import box_corners
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_six_d
from amt.hand.skeleton import SHIPPED_HAND
from amt.kernels import hand_frames
from amt.model.backbone import Normalize, build_backbone
from amt.model.camera import CropCamera
from amt.model.coarse_decoder import HAND, OBJECT, CoarseDecoder
from amt.model.config import ConfigError, ModelConfig
from amt.model.decoders import Contact, ContactDecoder, HandDecoder, ObjectDecoder, parameter_residual
from amt.model.distances import nearest_distances, vertex_distances
from amt.model.encoders import ContactEncoder, HandEncoder, ObjectEncoder, PlaceEncoder
from amt.model.features import FeatureNoise
from amt.model.frames import Frames
from amt.model.fusion import Fused, Fusion, Tokens
from amt.model.hub import Publishable
from amt.model.joint_states import JointStates
from amt.model.keypoints import CENTRE, KeypointHead, Keypoints
from amt.model.neck import Neck
from amt.model.outline import Outline, OutlineHead
from amt.model.outputs import Hand, Prediction
from amt.model.pose_search import Evidence, Poses, PoseSearch
from amt.model.refinement import Refinement
from amt.model.scene import OFFSET_UNIT, Scene, build_scene, in_frame, place_object
from amt.model.scene_solver import SceneSolver
from amt.model.summary import Summary, summarize


class AMT(Publishable, nn.Module):
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
        self.feature_noise = FeatureNoise(config.feature_noise)
        self.neck = Neck(config, self.backbone.map_channels)
        self.keypoints = KeypointHead(config)
        self.coarse_decoder = CoarseDecoder(config, mean_pose)
        self.scene_solver = SceneSolver(config)
        self.pose_search = PoseSearch(config) if config.pose_search else None
        self.outline = OutlineHead(config) if config.pose_search and config.outline else None
        self.hand_encoder = HandEncoder(config) if config.hand_frames else PlaceEncoder(config)
        self.object_encoder = ObjectEncoder(config)
        self.contact_encoder = ContactEncoder(config, self.mano) if config.contact_tokens else None
        self.fusion = Fusion(config)
        self.hand_decoder = HandDecoder(config)
        self.object_decoder = ObjectDecoder(config)
        self.contact_decoder = ContactDecoder(config, self.mano)
        self.refinement = Refinement(config, self.mano)
        self.joint_states = JointStates(config) if config.visibility or config.joint_scale else None
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
        camera = CropCamera.of(inputs.intrinsics, self.config.crop_size)

        # from the image to a coarse scene that fits its keypoints
        features = self.feature_noise(self.backbone(self.normalize(inputs.image)))
        maps = self.neck(features)
        keypoints, keypoint_features = self.keypoints(maps.fine)
        guess = self.coarse_decoder(features.tokens, keypoints, keypoint_features, camera, inputs.object_class)
        corners = box_corners(inputs.object_points)
        coarse, parameters = self.scene_solver(guess.parameters, self.mano, keypoints, corners, camera)

        # to tokens; from here on the coarse scene is an observation, through which no gradient passes
        outline = self.outline(maps.fine) if self.outline else None
        poses, evidence = self._poses(maps.fine, inputs, coarse, keypoints, camera, outline)
        observed = coarse.detach()
        if poses is not None:
            observed, parameters = place_object(observed, parameters, *poses.best(), inputs.object_look, camera)
        fixed = parameters.detach()
        frames = self._frames(observed.joints, camera)
        points = observed.posed(inputs.object_points)
        hand_tokens = self.hand_encoder(observed.vertices, frames, camera.view)
        object_tokens = self.object_encoder(points, inputs.object_class, observed, fixed, frames, camera.view)
        contact_tokens = self._contact_tokens(observed, points, frames)
        fused = self.fusion(Tokens(features.tokens, guess.queries, hand_tokens, object_tokens, contact_tokens))

        # to residuals on the coarse scene, to the refined hand, and to contact
        hand = self.hand_decoder(fused.queries[:, HAND], fused.hand, fused.contact, frames.rotations)
        body = self.object_decoder(fused.queries[:, OBJECT], fused.object, fused.contact)
        decoded = build_scene(parameters + parameter_residual(hand, body), self.mano, camera)
        start = decoded.joints + hand.joints
        steps = self.refinement(start, camera, maps, hand.latent)
        joints = steps[:, -1] if steps.shape[1] else start
        refined = Hand(joints, self.refinement.follow_joints(decoded.vertices, joints - decoded.joints))
        unrefined = Hand(start, self.refinement.follow_joints(decoded.vertices, hand.joints))
        contact = self._contact(inputs, camera, fused, decoded, refined)
        visible, scale = self.joint_states(fused.hand, keypoint_features) if self.joint_states else (None, None)
        return Prediction(
            keypoints=keypoints,
            object_class=guess.class_logits,
            coarse=coarse,
            decoded=decoded,
            unrefined=unrefined,
            steps=steps,
            refined=refined,
            contact=contact,
            hand_latent=hand.distribution,
            object_latent=body.distribution,
            poses=poses,
            outline=outline,
            evidence=evidence if self.training else None,
            joint_visible=visible,
            joint_scale=scale,
        )

    def _poses(
        self,
        fine: Tensor,
        inputs: Inputs,
        coarse: Scene,
        keypoints: Keypoints,
        camera: CropCamera,
        outline: Outline | None,
    ) -> tuple[Poses | None, Evidence | None]:
        """Poses of the object, scored, and by what; None where the model does not search or no point's look is known."""
        if self.pose_search is None or inputs.object_look is None:
            return None, None
        place = keypoints.lifted(coarse.joints[:, 0, 2], camera)[:, CENTRE]
        start = coarse.object_rotation.detach(), place.detach()
        return self.pose_search(fine, inputs.object_points, inputs.object_look, *start, camera, outline)

    def _frames(self, joints: Tensor, camera: CropCamera) -> Frames:
        """The frames of joints [B, 21, 3] (m); without ``hand_frames`` their axes are the view's."""
        origins, rotations = hand_frames(joints.contiguous())
        if self.config.hand_frames:
            return Frames(origins, rotations)
        return Frames(origins, camera.view[:, None].expand_as(rotations).contiguous())

    def _contact_tokens(self, scene: Scene, points: Tensor, frames: Frames) -> Tensor | None:
        """What the frames see of the object's points [B, P, 3] (m); None where the model has no contact encoder."""
        if self.contact_encoder is None:
            return None
        return self.contact_encoder(points, frames, vertex_distances(scene.vertices, points))

    def _contact(self, inputs: Inputs, camera: CropCamera, fused: Fused, decoded: Scene, refined: Hand) -> Contact:
        """Contact where the final hand and the final object are; no gradient goes back through the distances."""
        with torch.no_grad():
            points = decoded.posed(inputs.object_points)
            distances = nearest_distances(refined.vertices, points)
            local = in_frame(points, *self._frames(refined.joints, camera).palm()) / OFFSET_UNIT
        return self.contact_decoder(fused.hand, fused.contact, distances, local)

    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def summary(self, batch_size: int = 8, num_points: int = 256) -> Summary:
        """Parameters, operations and training's memory of each part; ``print`` it. Nothing is computed."""
        return summarize(self, batch_size, num_points)


def _hand_model(config: ModelConfig) -> HandModel:
    if config.hand == SHIPPED_HAND:
        from amt.hand.shipped import shipped_hand

        return shipped_hand("right")
    from amt.hand.mano_file import load_mano

    try:
        model = load_mano(config.hand)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.hand: {error}; give the path of MANO_RIGHT.pkl, or {SHIPPED_HAND}") from error
    if model.side != "right":
        raise ConfigError(f"model.hand={config.hand}: expected a right hand's file (left hands are mirrored)")
    return model


def _mean_pose(mano: ManoLayer) -> Tensor:
    """The hand model's mean pose as 6D [16, 6], with no global rotation."""
    axis_angle = torch.cat((torch.zeros(3), mano.hands_mean)).unflatten(0, (16, 3))
    return matrix_to_six_d(axis_angle_to_matrix(axis_angle))
