"""From fused tokens to residuals on the coarse scene, and to contact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.hand.mano import NUM_BETAS, NUM_MANO_JOINTS, ManoLayer
from amt.hand.tensors import TensorFields, exported
from amt.kernels import hand_frames
from amt.model.coarse_decoder import ParameterHead
from amt.model.config import ModelConfig
from amt.model.distances import NUM_DISTANCE_FEATURES, Distances, distance_features
from amt.model.draws import kept
from amt.model.frames import JOINT_FRAMES
from amt.model.latent import Gaussian, Latent
from amt.model.layers import Mlp, small_output
from amt.model.mesh import rest_hand
from amt.model.precision import coordinates
from amt.model.scene import Parameters

JOINT_UNIT = 0.01  # m
FIRST_LOGIT = -1.5  # contacts are few
# Share of training samples whose tokens the contact decoder does not see. Without it the decoder memorises which vertices
# touch in each picture, and is as certain about other people's hands.
DROP_PATH = 0.5


class HandResidual(NamedTuple):
    """What the hand decoder adds to the coarse hand."""

    six_d: Tensor  # [B, 16, 6]
    betas: Tensor  # [B, 10]
    wrist: Tensor  # [B, 3]
    joints: Tensor  # [B, 21, 3], m, camera axes: each joint's own, after MANO; 0 for the wrist
    latent: Tensor  # [B, latent]: the value that the head read
    distribution: Gaussian


class ObjectResidual(NamedTuple):
    """What the object decoder adds to the coarse object."""

    six_d: Tensor  # [B, 6]
    offset: Tensor  # [B, 3]
    distribution: Gaussian


def parameter_residual(hand: HandResidual, body: ObjectResidual) -> Parameters:
    """Both decoders' residuals of the parameters."""
    return Parameters(hand.six_d, hand.betas, hand.wrist, body.six_d, body.offset)


@exported
@dataclass(frozen=True)
class Contact(TensorFields):
    """Logits; above 0 it is likelier than not that there is contact."""

    hand: Tensor  # [B, V]: the vertex touches the object
    object: Tensor  # [B, P]: the object point touches the hand


class HandDecoder(nn.Module):
    """Residuals of the hand's parameters from its latent, and of each joint from the token of the frame that sits there."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.hidden
        self.latent = Latent((2 + config.contact_tokens) * dim, config.latent, config.sigma)
        self.head = ParameterHead(config.latent, NUM_MANO_JOINTS * 6 + NUM_BETAS + 3)
        self.joint_head = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), small_output(nn.Linear(dim // 2, 3)))
        self.register_buffer("joint_frames", torch.tensor(JOINT_FRAMES), persistent=False)

    def forward(self, query: Tensor, hand: Tensor, contact: Tensor | None, rotations: Tensor) -> HandResidual:
        """Takes the hand's query [B, dim], hand and contact tokens [B, 22, dim] and the frames' axes [B, 22, 3, 3]."""
        latent, distribution = self.latent(_means(query, hand, contact))
        six_d, betas, wrist = self.head(latent).float().split([NUM_MANO_JOINTS * 6, NUM_BETAS, 3], dim=-1)
        local = self.joint_head(hand[:, self.joint_frames]).float() * JOINT_UNIT
        local = torch.cat((torch.zeros_like(local[:, :1]), local[:, 1:]), dim=1)
        joints = _rotated(rotations[:, self.joint_frames], local)
        six_d = six_d.unflatten(-1, (NUM_MANO_JOINTS, 6))
        return HandResidual(six_d, betas, wrist, joints, latent, distribution)


class ObjectDecoder(nn.Module):
    """Residuals of the object's pose from its latent."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.latent = Latent((2 + config.contact_tokens) * config.hidden, config.latent, config.sigma)
        self.head = ParameterHead(config.latent, 6 + 3)

    def forward(self, query: Tensor, body: Tensor, contact: Tensor | None) -> ObjectResidual:
        """Takes the object's query [B, dim], its tokens [B, 4, dim] and the contact tokens [B, 22, dim]."""
        latent, distribution = self.latent(_means(query, body, contact))
        six_d, offset = self.head(latent).float().split([6, 3], dim=-1)
        return ObjectResidual(six_d, offset, distribution)


class ContactDecoder(nn.Module):
    """Logits a vertex and an object point, from the frames' tokens spread over the hand and from the final distances."""

    def __init__(self, config: ModelConfig, mano: ManoLayer):
        super().__init__()
        width = config.hidden // 4
        self.tokens = Mlp((1 + config.contact_tokens) * config.hidden, width, width)
        self.vertex_embedding = nn.Parameter(torch.randn(mano.num_vertices, width) * 0.1)
        self.vertex_bias = nn.Parameter(torch.full((mano.num_vertices,), FIRST_LOGIT))
        self.vertex_distance = nn.Linear(NUM_DISTANCE_FEATURES, width)
        self.point = Mlp(width + NUM_DISTANCE_FEATURES + 3, width, 1)
        nn.init.constant_(self.point.fc2.bias, FIRST_LOGIT)
        self.register_buffer("spread", _spread(mano), persistent=False)  # [V, 22]

    def forward(self, hand: Tensor, contact: Tensor | None, distances: Distances, local: Tensor) -> Contact:
        """Logits of every vertex and every object point.

        Args:
            hand, contact: fused tokens [B, 22, dim]; contact is None where the model has no such tokens.
            distances: between the final hand and the final object.
            local: the object's points in the palm's frame, [B, P, 3], 0.1 m.
        """
        tokens = self.tokens(hand if contact is None else torch.cat((hand, contact), dim=-1))
        tokens = tokens * kept(tokens, DROP_PATH) if self.training else tokens
        vertices = self.spread @ tokens + self.vertex_distance(distance_features(distances.from_vertex))
        vertices = torch.relu(vertices)
        hand_logits = (vertices.float() * self.vertex_embedding).sum(dim=-1) + self.vertex_bias
        nearest = distances.nearest_vertex[..., None].expand(-1, -1, vertices.shape[-1])
        at_points = (vertices.gather(1, nearest), distance_features(distances.from_point), local)
        point_logits = self.point(torch.cat(at_points, dim=-1))
        return Contact(hand_logits, point_logits[..., 0].float())


def _means(query: Tensor, *groups: Tensor | None) -> Tensor:
    """A query [B, dim] beside the mean of each group of tokens [B, N, dim] that the model has."""
    return torch.cat((query, *(group.mean(dim=1) for group in groups if group is not None)), dim=-1)


@coordinates
def _rotated(rotations: Tensor, points: Tensor) -> Tensor:  # [B, N, 3, 3], [B, N, 3] -> [B, N, 3]
    return (rotations @ points[..., None])[..., 0]


def _spread(mano: ManoLayer) -> Tensor:
    """The weight of each frame's token at each vertex, by distance at rest: [V, 22], rows sum to 1."""
    vertices, joints = rest_hand(mano)
    origins, _ = hand_frames(joints[None])
    return torch.softmax(-torch.cdist(vertices, origins[0]) / 0.01, dim=1)
