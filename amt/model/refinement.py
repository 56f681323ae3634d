"""Pixel-aligned refinement: the joints look at the maps where they project, and move; the mesh follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.mano import ManoLayer
from amt.hand.skeleton import NUM_JOINTS
from amt.kernels import RefineWeights, refine
from amt.model.config import ModelConfig
from amt.model.mesh import follow_weights
from amt.model.precision import coordinates


class Refinement(nn.Module):
    """The offset MLPs of :func:`amt.kernels.refine`, and maps that know what the fusion found out about the hand."""

    def __init__(self, config: ModelConfig, mano: ManoLayer):
        super().__init__()
        self.register_buffer("follow", follow_weights(mano), persistent=False)  # [778, 21]
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

    def forward(
        self, joints: Tensor, intrinsics: Tensor, maps: tuple[Tensor, Tensor], latent: Tensor, size: int
    ) -> Tensor:
        """Joints [B, S, 21, 3] (m) after each step, from joints [B, 21, 3] (m), K of the crop (px), the neck's maps, the
        hand's latent [B, latent] and the crop's side (px).

        K belongs to the crop of ``size`` px that the maps cover, never to a map's own grid.
        """
        if not self.num_steps:
            return joints.new_empty(joints.shape[0], 0, *joints.shape[1:])
        fine, coarse = maps
        # a shift of one map is enough: the MLP reads both side by side, and the coarse one is four times smaller
        maps = (fine, coarse + self.condition(latent).to(coarse.dtype)[:, None, None])
        weights = RefineWeights(*(w.expand(self.num_steps, *w.shape[1:]) for w in (self.w1, self.b1, self.w2, self.b2)))
        return refine(joints, intrinsics, maps, weights, image_size=(size, size), step_size=self.step_size)

    def follow_joints(self, vertices: Tensor, displacement: Tensor) -> Tensor:
        """Vertices [B, 778, 3] (m) that go along with displacements [B, 21, 3] (m) of the joints."""
        return vertices + _blend(self.follow, displacement)


@coordinates
def _blend(weights: Tensor, displacement: Tensor) -> Tensor:  # [778, 21], [B, 21, 3] -> [B, 778, 3]
    return weights @ displacement
