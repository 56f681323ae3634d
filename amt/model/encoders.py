"""Geometry to tokens: the coarse hand in its own 22 frames, the object, and the object as the hand's frames see it.

All three read the model's own coarse scene, detached. A gradient through its coordinates would mostly be noise on the coarse
decoder, and cost a backward pass through every point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.mano import ManoLayer
from amt.hand.objects import NUM_CLASSES
from amt.kernels import frame_pointnet
from amt.kernels.hand_frames import NUM_FRAMES
from amt.model.config import ModelConfig
from amt.model.distances import NUM_DISTANCE_FEATURES, distance_features
from amt.model.frames import WRIST, Frames
from amt.model.layers import Mlp
from amt.model.mesh import vertex_frames
from amt.model.precision import coordinates
from amt.model.scene import OFFSET_UNIT, Parameters, Scene

NUM_OBJECT_TOKENS = 4


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

    def forward(self, vertices: Tensor, frames: Frames, view: Tensor) -> Tensor:
        """Tokens [B, 22, hidden] of vertices [B, V, 3] (m); ``view`` [B, 3, 3] is the crop camera's."""
        return self.points(vertices, *frames) + self.frame(_frame_features(frames, view))


class PlaceEncoder(nn.Module):
    """The hand encoder without frames: one token an origin, a linear map of where it lies plus an embedding."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.place = nn.Linear(3, config.hidden)
        self.embedding = nn.Parameter(torch.randn(NUM_FRAMES, config.hidden) * 0.02)

    def forward(self, vertices: Tensor, frames: Frames, view: Tensor) -> Tensor:
        """Tokens [B, 22, hidden]. Takes what :class:`HandEncoder` takes, reads the frames' origins and ``view`` only."""
        return self.place(_from_wrist(frames.origins, view)) + self.embedding


@coordinates
def _from_wrist(origins: Tensor, view: Tensor) -> Tensor:
    """Origins [B, 22, 3] from the wrist, in the view's axes, 0.1 m."""
    return (origins - origins[:, WRIST, None]) @ view / OFFSET_UNIT


@coordinates
def _frame_features(frames: Frames, view: Tensor) -> Tensor:
    """Each frame's origin from the wrist (0.1 m) and its axes, both in the view's axes: [B, 22, 12]."""
    axes = view.mT[:, None] @ frames.rotations
    return torch.cat((_from_wrist(frames.origins, view), axes.flatten(2)), dim=-1)


class ObjectEncoder(nn.Module):
    """The object's points from its own axes, from the camera and from the palm; and its class with its pose."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.points = FramePointNet(config, NUM_OBJECT_TOKENS - 1)
        self.pose = Mlp(9, config.hidden, config.hidden)
        self.class_embedding = nn.Embedding(NUM_CLASSES, config.hidden)

    def forward(
        self, points: Tensor, object_class: Tensor, scene: Scene, parameters: Parameters, frames: Frames, view: Tensor
    ) -> Tensor:
        """Tokens [B, 4, hidden] of the scene's object points [B, P, 3] (m, camera frame) and class [B]."""
        palm_origin, palm_rotation = frames.palm()
        centre = scene.object_translation
        origins = torch.stack((centre, centre, palm_origin), dim=1)
        rotations = torch.stack((scene.object_rotation, view, palm_rotation), dim=1)
        pose = self.pose(torch.cat((parameters.object_six_d, parameters.object_offset), dim=-1))
        pose = pose + self.class_embedding(object_class)
        return torch.cat((self.points(points, origins, rotations), pose[:, None]), dim=1)


class ContactEncoder(nn.Module):
    """One token a frame: the object's points as that frame sees them, and how near its part of the hand comes to them."""

    def __init__(self, config: ModelConfig, mano: ManoLayer):
        super().__init__()
        self.points = FramePointNet(config, NUM_FRAMES)
        self.distance = Mlp(NUM_DISTANCE_FEATURES, config.hidden // 4, config.hidden)
        self.register_buffer("vertex_frames", vertex_frames(mano), persistent=False)

    def forward(self, points: Tensor, frames: Frames, vertex_distance: Tensor) -> Tensor:
        """Tokens [B, 22, hidden] of points [B, P, 3] (m) and of the distance [B, V] (m) from each vertex to them."""
        index = self.vertex_frames.expand(vertex_distance.shape[0], -1)
        nearest = vertex_distance.new_full((vertex_distance.shape[0], NUM_FRAMES), 1.0)
        nearest = nearest.scatter_reduce(1, index, vertex_distance, "amin")
        return self.points(points, *frames) + self.distance(distance_features(nearest))
