"""The first guess: hand, object and where they are in space, from the image and the camera alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.hand.mano import NUM_BETAS, NUM_MANO_JOINTS
from amt.hand.objects import NUM_CLASSES
from amt.model.camera import NUM_CAMERA_FEATURES, CropCamera
from amt.model.config import ModelConfig
from amt.model.keypoints import Keypoints, num_keypoints
from amt.model.layers import Block, Mlp, rising, small_output
from amt.model.scene import Parameters

HAND, OBJECT, CAMERA = range(3)


class Guess(NamedTuple):
    """What the coarse decoder returns."""

    parameters: Parameters
    queries: Tensor  # [B, 3, hidden], after decoding: hand, object, camera
    class_logits: Tensor  # [B, 22]


class CoarseDecoder(nn.Module):
    """Learned queries for hand, object and camera read the image's tokens and the keypoints'.

    Each query starts with the camera's features and the keypoints lifted by a small network; the object's with its class too.
    """

    def __init__(self, config: ModelConfig, mean_pose_six_d: Tensor):
        super().__init__()
        dim = config.hidden
        self.queries = nn.Parameter(torch.randn(1, 3, dim) * 0.02)
        self.lift = Mlp(NUM_CAMERA_FEATURES + 3 * num_keypoints(config), 2 * dim, 3 * dim)
        self.keypoint = nn.Linear(config.map_channels + 3, dim)
        self.keypoint_embedding = nn.Parameter(torch.randn(num_keypoints(config), dim) * 0.02)
        self.classify = nn.Linear(dim, NUM_CLASSES)
        self.class_embedding = nn.Embedding(NUM_CLASSES, dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.mlp_ratio, cross=True, drop_path=share)
            for share in rising(config.drop_path, config.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.hand_head = ParameterHead(dim, NUM_MANO_JOINTS * 6 + NUM_BETAS)
        self.object_head = ParameterHead(dim, 6 + 3)
        self.wrist_head = ParameterHead(dim, 3)
        self.register_buffer("mean_pose_six_d", mean_pose_six_d, persistent=False)  # [16, 6]

    def forward(
        self, tokens: Tensor, keypoints: Keypoints, features: Tensor, camera: CropCamera, object_class: Tensor
    ) -> Guess:
        """Decodes the image.

        Args:
            tokens: the image's, [B, N, hidden].
            keypoints, features: what the keypoint head found, and the fine map's features there [B, N, C].
            object_class: [B]; 0 stands for unknown, then the class that the image suggests is taken.
        """
        logits = self.classify(tokens.mean(dim=1))
        known = (object_class > 0)[:, None]
        guessed = torch.softmax(logits, dim=-1).to(tokens.dtype) @ self.class_embedding.weight.to(tokens.dtype)
        class_token = torch.where(known, self.class_embedding(object_class), guessed)
        places = torch.cat((keypoints.position, keypoints.depth[..., None]), dim=-1)
        lifted = self.lift(torch.cat((camera.features(), places.flatten(1)), dim=-1)).unflatten(-1, (3, -1))
        queries = self.queries + lifted
        queries = torch.stack((queries[:, HAND], queries[:, OBJECT] + class_token, queries[:, CAMERA]), dim=1)
        seen = self.keypoint(torch.cat((features, places), dim=-1)) + self.keypoint_embedding
        context = torch.cat((tokens, seen), dim=1)
        for block in self.blocks:
            queries = block(queries, context)
        queries = self.norm(queries)
        hand = self.hand_head(queries[:, HAND]).float()
        body = self.object_head(queries[:, OBJECT]).float()
        identity = torch.eye(3, device=body.device)[:, :2].mT.flatten()
        parameters = Parameters(
            hand_six_d=hand[:, : NUM_MANO_JOINTS * 6].unflatten(-1, (NUM_MANO_JOINTS, 6)) + self.mean_pose_six_d,
            betas=hand[:, NUM_MANO_JOINTS * 6 :],
            wrist=self.wrist_head(queries[:, CAMERA]).float(),
            object_six_d=body[:, :6] + identity,
            object_offset=body[:, 6:],
        )
        return Guess(parameters, queries, logits.float())


class ParameterHead(nn.Sequential):
    """A two-layer head that starts at zero."""

    def __init__(self, dim: int, out: int):
        super().__init__(nn.Linear(dim, dim), nn.GELU(), small_output(nn.Linear(dim, out)))
