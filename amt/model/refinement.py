"""Pixel-aligned refinement: each joint samples the maps where it projects, and moves; the mesh follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.mano import ManoLayer
from amt.hand.skeleton import NUM_JOINTS
from amt.kernels import RefineWeights, refine
from amt.model.camera import CropCamera
from amt.model.config import ModelConfig
from amt.model.features import Maps
from amt.model.mesh import follow_weights
from amt.model.precision import coordinates


class Refinement(nn.Module):
    """The weights of :func:`amt.kernels.refine`, and a shift of the maps by the hand's latent."""

    def __init__(self, config: ModelConfig, mano: ManoLayer):
        super().__init__()
        self.register_buffer("follow", follow_weights(mano), persistent=False)  # [V, 21]
        self.num_steps, self.step_size = config.refine_steps, config.refine_step_size_m
        if not self.num_steps:
            return
        steps = 1 if config.refine_shared else config.refine_steps
        channels, hidden = 2 * config.map_channels, config.refine_hidden
        self.w1 = nn.Parameter(torch.randn(steps, hidden, channels + 3) * (channels + 3) ** -0.5)
        self.b1 = nn.Parameter(torch.randn(steps, NUM_JOINTS, hidden) * 0.1)
        self.w2 = nn.Parameter(torch.randn(steps, 3, hidden) * 0.1 * hidden**-0.5)
        self.b2 = nn.Parameter(torch.zeros(steps, 3))
        self.condition = nn.Linear(config.latent, config.map_channels)

    def forward(self, joints: Tensor, camera: CropCamera, maps: Maps, latent: Tensor) -> Tensor:
        """Joints [B, S, 21, 3] (m) after each step, from joints [B, 21, 3] (m) and the hand's latent [B, latent].

        The camera is the crop's, which both maps cover; it is never a map's own grid.
        """
        if not self.num_steps:
            return joints.new_empty(joints.shape[0], 0, *joints.shape[1:])
        # a shift of one map is enough: the MLP reads both side by side, and the coarse one is four times smaller
        coarse = maps.coarse + self.condition(latent).to(maps.coarse.dtype)[:, None, None]
        weights = RefineWeights(*(w.expand(self.num_steps, *w.shape[1:]) for w in (self.w1, self.b1, self.w2, self.b2)))
        size = (camera.size, camera.size)
        return refine(
            joints, camera.intrinsics, (maps.fine, coarse), weights, image_size=size, step_size=self.step_size
        )

    def follow_joints(self, vertices: Tensor, displacement: Tensor) -> Tensor:
        """Vertices [B, V, 3] (m) moved with their joints, which moved by ``displacement`` [B, 21, 3] (m)."""
        return vertices + _blend(self.follow, displacement)


@coordinates
def _blend(weights: Tensor, displacement: Tensor) -> Tensor:  # [V, 21], [B, 21, 3] -> [B, V, 3]
    return weights @ displacement
