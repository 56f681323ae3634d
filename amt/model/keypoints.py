"""Where joints and object show in the crop: a soft arg-max over the fine map, learned long before a pose is.

Direct regression from tokens spends most of a short training on finding the hand. Dense scores on a map find it within
minutes, and what the map says at the found places is what the coarse decoder lifts to three dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.hand.objects import NUM_CORNERS
from amt.hand.skeleton import NUM_JOINTS
from amt.model.config import ModelConfig
from amt.model.precision import coordinates

CENTRE, FIRST_CORNER = NUM_JOINTS, NUM_JOINTS + 1
NUM_KEYPOINTS = FIRST_CORNER + NUM_CORNERS  # the joints, the object's origin, the corners of the box around its points
# the same box seen in a mirror: corner i of box_corners has its x in bit 2
MIRRORED = (*range(FIRST_CORNER), *(FIRST_CORNER + (i ^ 4) for i in range(NUM_CORNERS)))


class Keypoints(NamedTuple):
    """2.5D: positions in the crop and depths from the wrist."""

    position: Tensor  # [B, 30, 2]: half crops from the crop's centre, x right, y down
    depth: Tensor  # [B, 30], 0.1 m behind the wrist
    trust: Tensor  # [B, 30], 0 to 1: how much the geometric solvers make of it
    features: Tensor  # [B, 30, C]: the map at each keypoint
    log_maps: Tensor  # [B, 30, H, W]: log probability of each cell to hold the keypoint


class KeypointHead(nn.Module):
    """One score map a keypoint; its softmax weighs the cells' positions, depths, trust and features.

    Each cell may point beside itself, so that corners outside the crop have a place too.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels, size = config.map_channels, config.map_size
        self.score_and_depth = nn.Linear(channels, 2 * NUM_KEYPOINTS)
        self.beside_and_trust = nn.Parameter(torch.zeros(NUM_KEYPOINTS, 3, channels))
        axis = (torch.arange(size) + 0.5) * 2 / size - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("grid", torch.stack((x, y), dim=-1).flatten(0, 1), persistent=False)

    def forward(self, fine: Tensor) -> Keypoints:  # [B, H, W, C]
        cells = fine.flatten(1, 2)
        score, depth = self.score_and_depth(cells).float().mT.chunk(2, dim=1)
        log_weights = torch.log_softmax(score, dim=2)
        weights = log_weights.exp()
        depth = (weights * depth).sum(dim=2)
        features = weights.to(cells.dtype) @ cells
        beside = self._beside(features).float()  # linear in the cell: the same as weighing every cell's answer
        return Keypoints(
            position=_mean_position(weights, self.grid) + beside[..., :2],
            depth=depth - depth[:, :1],
            trust=torch.sigmoid(beside[..., 2]),
            features=features,
            log_maps=log_weights.unflatten(2, fine.shape[1:3]),
        )

    def _beside(
        self, features: Tensor
    ) -> Tensor:  # [B, 30, C] -> [B, 30, 3]: x, y and trust, for each keypoint its own
        return (self.beside_and_trust.to(features.dtype) @ features[..., None])[..., 0]


@coordinates
def _mean_position(weights: Tensor, grid: Tensor) -> Tensor:  # [B, N, cells], [cells, 2] -> [B, N, 2]
    return weights @ grid
