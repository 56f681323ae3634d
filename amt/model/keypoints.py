"""Where joints and object show in the crop: a soft arg-max over the fine map, learned long before a pose is.

Direct regression from tokens spends most of a short training on finding the hand. Dense scores on a map find it within
minutes. The coarse decoder lifts to three dimensions what the map says at the found places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amt.hand.mirror import choose
from amt.hand.objects import NUM_CORNERS
from amt.hand.skeleton import NUM_JOINTS
from amt.hand.tensors import TensorFields, exported
from amt.kernels.constant import constant, places
from amt.model.camera import CropCamera
from amt.model.config import ModelConfig
from amt.model.precision import coordinates
from amt.model.scene import OFFSET_UNIT

CENTRE, FIRST_CORNER = NUM_JOINTS, NUM_JOINTS + 1
MOST_KEYPOINTS = FIRST_CORNER + NUM_CORNERS
# the keypoints of a mirrored image: bit 2 of a corner's number is its x, see amt.hand.objects.box_corners
MIRRORED = (*range(FIRST_CORNER), *(FIRST_CORNER + (i ^ 4) for i in range(NUM_CORNERS)))


def num_keypoints(config: ModelConfig) -> int:
    """N: the joints, the object's origin and, with ``corners``, the corners of the box around its points."""
    return MOST_KEYPOINTS if config.corners else FIRST_CORNER


@exported
@dataclass(frozen=True)
class Keypoints(TensorFields):
    """2.5D: positions in the crop and depths from the wrist. All float32."""

    position: Tensor  # [B, N, 2]: half crops from the crop's centre, x right, y down
    depth: Tensor  # [B, N], 0.1 m behind the wrist
    trust: Tensor  # [B, N], 0 to 1: the weight in the geometric solvers
    log_maps: Tensor  # [B, N, H, W]: log probability of each cell to hold the keypoint

    def doubt(self, count: int) -> Tensor:
        """[B], nats: the mean entropy of the first ``count`` keypoints' maps. The more a map is spread, the less it knows."""
        maps = self.log_maps[:, :count].flatten(2)
        return -(maps.exp() * maps).sum(2).mean(1)

    @coordinates
    def lifted(self, wrist_depth: Tensor, camera: CropCamera) -> Tensor:
        """The points [B, N, 3] (m, camera frame) that show where the keypoints are, with a wrist at this depth [B] (m)."""
        depth = wrist_depth[:, None, None] + self.depth[..., None] * OFFSET_UNIT
        rays = camera.rays(self.position)
        return torch.cat((rays, torch.ones_like(depth)), dim=-1) * depth

    def mirrored(self, which: Tensor) -> Keypoints:
        """The keypoints of the mirrored crop where ``which`` [B] (bool) is True."""
        order = places(MIRRORED[: self.depth.shape[1]], self.depth)
        flipped = self.position[:, order] * constant((-1, 1), self.position)
        return Keypoints(
            position=choose(which, flipped, self.position),
            depth=choose(which, self.depth[:, order], self.depth),
            trust=choose(which, self.trust[:, order], self.trust),
            log_maps=choose(which, self.log_maps[:, order].flip(-1), self.log_maps),
        )


def cell_positions(size: int) -> Tensor:
    """Where the cells of a map are seen, row by row: [size * size, 2], half crops from the crop's centre."""
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1)


class KeypointHead(nn.Module):
    """One score map a keypoint. Its softmax averages the cells' positions, depths, trust and features.

    Each cell adds an offset to its position, so that a keypoint can lie outside the crop.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels, size = config.map_channels, config.map_size
        self.score_and_depth = nn.Linear(channels, 2 * num_keypoints(config))
        self.beside_and_trust = nn.Parameter(torch.zeros(num_keypoints(config), 3, channels))
        self.register_buffer("grid", cell_positions(size), persistent=False)

    def forward(self, fine: Tensor) -> tuple[Keypoints, Tensor]:
        """The keypoints, and the fine map's features at each [B, N, C], from the fine map [B, H, W, C]."""
        cells = fine.flatten(1, 2)
        score, depth = self.score_and_depth(cells).float().mT.chunk(2, dim=1)
        log_weights = torch.log_softmax(score, dim=2)
        weights = log_weights.exp()
        depth = (weights * depth).sum(dim=2)
        features = weights.to(cells.dtype) @ cells
        beside = self._beside(features).float()  # linear in the cell: the same as weighing every cell's answer
        keypoints = Keypoints(
            position=_mean_position(weights, self.grid) + beside[..., :2],
            depth=depth - depth[:, :1],
            trust=torch.sigmoid(beside[..., 2]),
            log_maps=log_weights.unflatten(2, fine.shape[1:3]),
        )
        return keypoints, features

    def _beside(self, features: Tensor) -> Tensor:
        """Offset x, y and trust [B, N, 3] of features [B, N, C]; each keypoint has weights of its own."""
        return (self.beside_and_trust.to(features.dtype) @ features[..., None])[..., 0]


@coordinates
def _mean_position(weights: Tensor, grid: Tensor) -> Tensor:  # [B, N, cells], [cells, 2] -> [B, N, 2]
    return weights @ grid
