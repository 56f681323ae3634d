"""From fused tokens to residuals on the coarse scene, and to contact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.hand.mano import NUM_BETAS, NUM_MANO_JOINTS, ManoLayer
from amt.hand.skeleton import NUM_VERTICES
from amt.kernels import hand_frames
from amt.model.coarse_decoder import ParameterHead
from amt.model.config import ModelConfig
from amt.model.encoders import DISTANCE_SCALES, distance_features
from amt.model.latent import Latent
from amt.model.layers import Mlp, small_output
from amt.model.mesh import rest_hand
from amt.model.precision import coordinates

# the frame that sits at each joint, in the order of the skeleton: wrist, then base, two middles and tip of each finger
JOINT_FRAMES = (20, *(f for i in range(5) for f in (5 + i, 10 + 2 * i, 11 + 2 * i, i)))
JOINT_UNIT = 0.01  # m
FIRST_LOGIT = -1.5  # contacts are few
# How often the contact decoder trains on a sample without its tokens: which vertices touch is soon known by heart, picture by
# picture, and then said of other people with the same certainty.
DROP_PATH = 0.5


class HandDecoder(nn.Module):
    """Residuals of the hand's parameters from its latent, and of each joint from the token of the frame that sits there."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.hidden
        self.latent = Latent((2 + config.contact_tokens) * dim, config.latent, config.sigma)
        self.head = ParameterHead(config.latent, NUM_MANO_JOINTS * 6 + NUM_BETAS + 3)
        self.joint_head = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), small_output(nn.Linear(dim // 2, 3)))
        self.register_buffer("joint_frames", torch.tensor(JOINT_FRAMES), persistent=False)

    def forward(self, query: Tensor, hand: Tensor, contact: Tensor | None, rotations: Tensor):
        """Takes the hand's query [B, dim], hand and contact tokens [B, 22, dim] and the frames [B, 22, 3, 3].

        Returns the residuals of hand_six_d [B, 16, 6], betas [B, 10] and wrist [B, 3], the joints' own [B, 21, 3] (m,
        camera axes, 0 for the wrist), the latent and its mean and log variance.
        """
        z, mean, log_variance = self.latent(_means(query, hand, contact))
        six_d, betas, wrist = self.head(z).float().split([NUM_MANO_JOINTS * 6, NUM_BETAS, 3], dim=-1)
        local = self.joint_head(hand[:, self.joint_frames]).float() * JOINT_UNIT
        local = torch.cat((torch.zeros_like(local[:, :1]), local[:, 1:]), dim=1)
        offsets = _turned(rotations[:, self.joint_frames], local)
        return six_d.unflatten(-1, (NUM_MANO_JOINTS, 6)), betas, wrist, offsets, z, mean, log_variance


class ObjectDecoder(nn.Module):
    """Residuals of the object's pose from its latent."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.latent = Latent((2 + config.contact_tokens) * config.hidden, config.latent, config.sigma)
        self.head = ParameterHead(config.latent, 6 + 3)

    def forward(self, query: Tensor, body: Tensor, contact: Tensor | None):
        """Takes the object's query [B, dim], its tokens [B, 4, dim] and the contact tokens [B, 22, dim].

        Returns the residuals of object_six_d [B, 6] and object_offset [B, 3], the latent's mean and log variance.
        """
        z, mean, log_variance = self.latent(_means(query, body, contact))
        six_d, offset = self.head(z).float().split([6, 3], dim=-1)
        return six_d, offset, mean, log_variance


class ContactDecoder(nn.Module):
    """Logits a vertex and an object point, from the frames' tokens spread over the hand and from the final distances."""

    def __init__(self, config: ModelConfig, mano: ManoLayer):
        super().__init__()
        width = config.hidden // 4
        num_distances = len(DISTANCE_SCALES) + 1
        self.tokens = Mlp((1 + config.contact_tokens) * config.hidden, width, width)
        self.vertex_embedding = nn.Parameter(torch.randn(NUM_VERTICES, width) * 0.1)
        self.vertex_bias = nn.Parameter(torch.full((NUM_VERTICES,), FIRST_LOGIT))
        self.vertex_distance = nn.Linear(num_distances, width)
        self.point = Mlp(width + num_distances + 3, width, 1)
        nn.init.constant_(self.point.fc2.bias, FIRST_LOGIT)
        self.register_buffer("spread", _spread(mano), persistent=False)  # [778, 22]

    def forward(
        self,
        hand: Tensor,
        contact: Tensor | None,
        from_vertex: Tensor,
        from_point: Tensor,
        nearest: Tensor,
        local: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Hand logits [B, 778] and object logits [B, P].

        Args:
            hand, contact: fused tokens [B, 22, dim]; no contact tokens (None) where the model has none.
            from_vertex, from_point: distances [B, 778] and [B, P] (m) between the final hand and the final object.
            nearest: the vertex nearest to each point, [B, P].
            local: points in the palm's frame, [B, P, 3], 0.1 m.
        """
        tokens = self.tokens(hand if contact is None else torch.cat((hand, contact), dim=-1))
        tokens = tokens * F.dropout(tokens.new_ones(len(tokens), 1, 1), DROP_PATH, self.training)
        vertices = self.spread @ tokens + self.vertex_distance(distance_features(from_vertex))
        vertices = torch.relu(vertices)
        hand_logits = (vertices.float() * self.vertex_embedding).sum(dim=-1) + self.vertex_bias
        seen = vertices.gather(1, nearest[..., None].expand(-1, -1, vertices.shape[-1]))
        point_logits = self.point(torch.cat((seen, distance_features(from_point), local), dim=-1))
        return hand_logits, point_logits[..., 0].float()


def _means(query: Tensor, *groups: Tensor | None) -> Tensor:
    """A query [B, dim] beside the mean of each group of tokens [B, N, dim]; a group that the model lacks is None."""
    return torch.cat((query, *(group.mean(dim=1) for group in groups if group is not None)), dim=-1)


@coordinates
def _turned(rotations: Tensor, points: Tensor) -> Tensor:  # [B, N, 3, 3], [B, N, 3] -> [B, N, 3]
    return (rotations @ points[..., None])[..., 0]


def _spread(mano: ManoLayer) -> Tensor:
    """How much of each frame's token a vertex takes, by distance at rest: [778, 22], rows sum to 1."""
    vertices, joints = rest_hand(mano)
    origins, _ = hand_frames(joints[None])
    return torch.softmax(-torch.cdist(vertices, origins[0]) / 0.01, dim=1)
