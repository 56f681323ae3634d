"""Where joints and object show in the crop: a soft arg-max over the fine map, learned long before a pose is.

Direct regression from tokens spends most of a short training on finding the hand. Dense scores on a map find it within
minutes, and what the map says at the found places is what the coarse decoder lifts to three dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.hand.skeleton import NUM_JOINTS
from amt.model.config import ModelConfig
from amt.model.precision import coordinates

NUM_KEYPOINTS = NUM_JOINTS + 1  # the joints, and the object's origin


class Keypoints(NamedTuple):
    """2.5D: positions in the crop and depths from the wrist."""

    position: Tensor  # [B, 22, 2]: half crops from the crop's centre, x right, y down
    depth: Tensor  # [B, 22], 0.1 m behind the wrist
    features: Tensor  # [B, 22, C]: the map at each keypoint
    log_maps: Tensor  # [B, 22, H, W]: log probability of each cell to hold the keypoint


class KeypointHead(nn.Module):
    """One score map a keypoint; its softmax weighs positions, depths and features."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels, size = config.map_channels, config.map_size
        self.score_and_depth = nn.Linear(channels, 2 * NUM_KEYPOINTS)
        axis = (torch.arange(size) + 0.5) * 2 / size - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("grid", torch.stack((x, y), dim=-1).flatten(0, 1), persistent=False)

    def forward(self, fine: Tensor) -> Keypoints:  # [B, H, W, C]
        cells = fine.flatten(1, 2)
        score, depth = self.score_and_depth(cells).float().mT.chunk(2, dim=1)
        log_weights = torch.log_softmax(score, dim=2)
        weights = log_weights.exp()
        depth = (weights * depth).sum(dim=2)
        return Keypoints(
            position=_mean_position(weights, self.grid),
            depth=depth - depth[:, :1],
            features=weights.to(cells.dtype) @ cells,
            log_maps=log_weights.unflatten(2, fine.shape[1:3]),
        )


@coordinates
def _mean_position(weights: Tensor, grid: Tensor) -> Tensor:  # [B, N, cells], [cells, 2] -> [B, N, 2]
    return weights @ grid
