"""Geometry to tokens: the coarse hand in its own 22 frames, the object, and the object as the hand's frames see it.

All three look at the model's own coarse scene. They take its coordinates as given (detached): what they send back would
mostly be noise on the coarse decoder, at the price of a backward pass through every point.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.hand.mano import ManoLayer
from amt.hand.objects import NUM_CLASSES
from amt.kernels import frame_pointnet
from amt.kernels.hand_frames import NUM_FRAMES
from amt.model.coarse_decoder import Parameters
from amt.model.config import ModelConfig
from amt.model.layers import Mlp
from amt.model.mesh import vertex_frames
from amt.model.pose import OFFSET_UNIT, Scene
from amt.model.precision import coordinates

NUM_OBJECT_TOKENS = 4
WRIST, PALM = NUM_FRAMES - 2, NUM_FRAMES - 1
DISTANCE_SCALES = (0.005, 0.02, 0.08)  # m: contact, near, within reach


class FramePointNet(nn.Module):
    """The weights of one ``frame_pointnet`` and a projection of its features to tokens."""

    def __init__(self, config: ModelConfig, num_frames: int):
        super().__init__()
        hidden, out = config.point_hidden, config.point_features
        self.w1 = nn.Parameter(torch.randn(hidden, 3))
        self.b1 = nn.Parameter(torch.randn(num_frames, hidden) * 0.5)
        self.w2 = nn.Parameter(torch.randn(out, hidden) * (2 / hidden) ** 0.5)
        self.b2 = nn.Parameter(torch.zeros(out))
        self.project = nn.Sequential(nn.LayerNorm(out), nn.Linear(out, config.hidden))

    def forward(self, points: Tensor, origins: Tensor, rotations: Tensor) -> Tensor:
        """Tokens [B, F, hidden] of points [B, N, 3] (m) in frames [B, F, 3], [B, F, 3, 3]."""
        return self.project(frame_pointnet(points, origins, rotations, self.w1, self.b1, self.w2, self.b2))


class HandEncoder(nn.Module):
    """One token a frame: what the hand's mesh looks like from there, and where that frame is."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.points = FramePointNet(config, NUM_FRAMES)
        self.frame = nn.Linear(12, config.hidden)

    def forward(self, vertices: Tensor, origins: Tensor, rotations: Tensor, view: Tensor) -> Tensor:
        """Tokens [B, 22, hidden] of vertices [B, 778, 3] (m); ``view`` [B, 3, 3] is the turn to the crop's ray."""
        return self.points(vertices, origins, rotations) + self.frame(_frame_features(origins, rotations, view))


class PlaceEncoder(nn.Module):
    """The hand encoder without frames: one token a place, a linear map of where it lies; which place is an embedding."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.place = nn.Linear(3, config.hidden)
        self.embedding = nn.Parameter(torch.randn(NUM_FRAMES, config.hidden) * 0.02)

    def forward(self, vertices: Tensor, origins: Tensor, rotations: Tensor, view: Tensor) -> Tensor:
        """Tokens [B, 22, hidden]; takes what :class:`HandEncoder` takes, looks at ``origins`` and ``view`` only."""
        return self.place(_place(origins, view)) + self.embedding


@coordinates
def _place(origins: Tensor, view: Tensor) -> Tensor:
    """From the wrist, in the view's axes, 0.1 m: [B, 22, 3]."""
    return (origins - origins[:, WRIST, None]) @ view / OFFSET_UNIT


@coordinates
def _frame_features(origins: Tensor, rotations: Tensor, view: Tensor) -> Tensor:
    """Each frame's place from the wrist (0.1 m) and its axes, both in the view's axes: [B, 22, 12]."""
    return torch.cat((_place(origins, view), (view.mT[:, None] @ rotations).flatten(2)), dim=-1)


class ObjectEncoder(nn.Module):
    """The object's points from its own axes, from the camera and from the palm; and its class with its pose."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.points = FramePointNet(config, NUM_OBJECT_TOKENS - 1)
        self.pose = Mlp(9, config.hidden, config.hidden)
        self.class_embedding = nn.Embedding(NUM_CLASSES, config.hidden)

    def forward(
        self, points: Tensor, object_class: Tensor, scene: Scene, parameters: Parameters, palm: tuple, view: Tensor
    ) -> Tensor:
        """Tokens [B, 4, hidden] of posed points [B, P, 3] (m); ``palm`` is the palm's origin and rotation."""
        centre = scene.object_translation
        origins = torch.stack((centre, centre, palm[0]), dim=1)
        rotations = torch.stack((scene.object_rotation, view, palm[1]), dim=1)
        pose = self.pose(torch.cat((parameters.object_six_d, parameters.object_offset), dim=-1))
        pose = pose + self.class_embedding(object_class)
        return torch.cat((self.points(points, origins, rotations), pose[:, None]), dim=1)


class ContactEncoder(nn.Module):
    """One token a frame: the object's points as that frame sees them, and how near its part of the hand comes to them."""

    def __init__(self, config: ModelConfig, mano: ManoLayer):
        super().__init__()
        self.points = FramePointNet(config, NUM_FRAMES)
        self.distance = Mlp(len(DISTANCE_SCALES) + 1, config.hidden // 4, config.hidden)
        self.register_buffer("vertex_frames", vertex_frames(mano), persistent=False)

    def forward(self, points: Tensor, origins: Tensor, rotations: Tensor, vertex_distance: Tensor) -> Tensor:
        """Tokens [B, 22, hidden]; points [B, P, 3] (m), vertex_distance [B, 778] (m) from each vertex to the object."""
        index = self.vertex_frames.expand(vertex_distance.shape[0], -1)
        nearest = vertex_distance.new_full((vertex_distance.shape[0], NUM_FRAMES), 1.0)
        nearest = nearest.scatter_reduce(1, index, vertex_distance, "amin")
        return self.points(points, origins, rotations) + self.distance(distance_features(nearest))


def distance_features(distance: Tensor) -> Tensor:
    """Distances [...] (m) as [..., 4] numbers in 0..1: one for each scale, and a clipped linear one."""
    return torch.stack((*(torch.exp(-distance / s) for s in DISTANCE_SCALES), F.hardtanh(distance / 0.2, 0, 1)), -1)


@torch.no_grad()
def nearest_distances(vertices: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How near hand and object come: from each vertex [B, V], from each point [B, P] (m), and that point's vertex [B, P]."""
    squared = _squared_distances(points, vertices)
    from_point, vertex = squared.min(dim=2)
    return _root(squared.amin(dim=1)), _root(from_point), vertex


@torch.no_grad()
def vertex_distances(vertices: Tensor, points: Tensor) -> Tensor:
    """From each of the vertices [B, V, 3] to the nearest of the points [B, P, 3] (m): [B, V]."""
    return _root(_squared_distances(vertices, points).amin(dim=2))


@coordinates
def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # coordinates relative to one centre: |a|^2 + |b|^2 - 2ab cancels badly half a metre from the camera
    centre = b.mean(dim=1, keepdim=True)
    a, b = a - centre, b - centre
    # one matrix product of [-2a, |a|^2, 1] and [b, 1, |b|^2] writes the large result once
    one = torch.ones_like(a[..., :1]), torch.ones_like(b[..., :1])
    left = torch.cat((-2 * a, a.square().sum(-1, keepdim=True), one[0]), dim=-1)
    return left @ torch.cat((b, one[1], b.square().sum(-1, keepdim=True)), dim=-1).mT


def _root(squared: Tensor) -> Tensor:
    return squared.clamp(min=0).sqrt()
