"""The object's pose by comparison: of the poses tried, the one under which the object's points look as the image does there.

Each point of the object's surface has a score map of its own: how well what a cell shows goes with the point's colour. Each cell
also answers the surface's normal and whether the object's rim is there. A pose scores the mean of all that where it projects the
points that face the camera. What is learned is to compare colours and normals under any light, behind any fingers: one object
teaches it for all others. A regressed rotation has to be learned for each object anew, and a map for each corner of a box learns
nothing at all (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt import kernels
from amt.hand.mirror import choose, mirror_points, mirror_rotations
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.tensors import TensorFields, exported
from amt.kernels.constant import constant
from amt.model.camera import CropCamera
from amt.model.config import ModelConfig
from amt.model.draws import drawn_like
from amt.model.layers import Mlp
from amt.model.outline import Outline, corners, placed, reach_of
from amt.model.precision import coordinates

NUM_POINTS = 128  # of the object's, evenly spread as they come in
CHANNELS = 32  # in which a cell and a colour are compared
NUM_COLOURS = 4  # red, green, blue, and whether they are known
FIRST_LOG_SCALE = 2.0  # of scores: log probabilities of poses
TURNS = 1024  # rotations of the first round
# Reaches in eight directions are wrong together. From 0.1 to 0.3 makes no difference; 0.5 and 1 find fewer rotations.
OUTLINE_WEIGHT = 0.15
COLOURLESS = 0.1  # share of training samples whose colours are hidden: a user's mesh may have none


class Round(NamedTuple):
    """Poses tried around the best so far."""

    best: int
    tries: int  # around each of them
    angle: float  # rad, deviation along each axis
    shift: float  # half crops, deviation along x and y
    depth: float  # deviation of the log of the depth


ROUNDS = (
    Round(16, 24, 0.4, 0.15, 0.06),
    Round(16, 16, 0.3, 0.1, 0.05),
    Round(8, 16, 0.2, 0.05, 0.04),
    Round(4, 16, 0.1, 0.03, 0.02),
    Round(1, 32, 0.05, 0.01, 0.01),
)


@exported
@dataclass(frozen=True)
class Evidence(TensorFields):
    """What the image says about where the object's surface is, over the whole crop."""

    colour: Tensor  # [B, N, H, W], one map a point: how well its colour goes with what a cell shows
    surface: Tensor  # [B, 4, H, W]: a vector that is compared with the normal, and the score of a point at the rim
    outline: Outline | None = None  # of the object; no gradient goes through it
    corners: Tensor | None = None  # [B, 26, 3], m, in the object's frame: what reaches farthest

    def mirrored(self, which: Tensor) -> Evidence:
        """The evidence of the mirrored crop where ``which`` [B] (bool) is True."""
        signs = constant((-1, 1, 1, 1), self.surface)[:, None, None]
        return Evidence(
            choose(which, self.colour.flip(-1), self.colour),
            choose(which, self.surface.flip(-1) * signs, self.surface),
            None if self.outline is None else self.outline.mirrored(which),
            None if self.corners is None else choose(which, mirror_points(self.corners), self.corners),
        )


@exported
@dataclass(frozen=True)
class Poses(TensorFields):
    """All poses of the object that were tried, in the camera's frame."""

    rotation: Tensor  # [B, K, 3, 3], object to camera
    translation: Tensor  # [B, K, 3], m
    score: Tensor  # [B, K]: log probability among them, up to a constant

    def best(self, count: int = 1) -> tuple[Tensor, Tensor]:
        """Rotations [B, count, 3, 3] and translations [B, count, 3] (m) of the highest scores."""
        index = self.score.topk(count, dim=1).indices
        turns = self.rotation.gather(1, index[..., None, None].expand(-1, -1, 3, 3))
        return turns, self.translation.gather(1, index[..., None].expand(-1, -1, 3))

    def and_those(self, rotation: Tensor, translation: Tensor, score: Tensor) -> Poses:
        """These poses and then others, [B, N, ...]."""
        more = (self.rotation, rotation), (self.translation, translation), (self.score, score)
        return Poses(*(torch.cat(pair, dim=1) for pair in more))

    def mirrored(self, which: Tensor) -> Poses:
        """The poses of the mirrored object, x to -x, where ``which`` [B] (bool) is True."""
        return Poses(
            choose(which, mirror_rotations(self.rotation), self.rotation),
            choose(which, mirror_points(self.translation), self.translation),
            self.score,
        )


def thinned(points: Tensor) -> Tensor:
    """The points [B, P, ...] that are compared: at most about :data:`NUM_POINTS`, evenly spread as they come in."""
    return points[:, :: max(1, points.shape[1] // NUM_POINTS)]


class PoseSearch(nn.Module):
    """Scores poses of an object with known surface points, normals and colours, in rounds of ever smaller steps.

    The rounds try the same turns at every call. No label is needed: the loss scores poses around the true one by the same
    evidence (:mod:`amt.train.losses.objects`).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.cell = Mlp(config.map_channels, 2 * CHANNELS, CHANNELS + 4)
        self.colour = Mlp(NUM_COLOURS, 2 * CHANNELS, CHANNELS)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_LOG_SCALE))
        self.register_buffer("turns", spread_rotations(TURNS), persistent=False)
        generator = torch.Generator().manual_seed(0)
        for number, step in enumerate(ROUNDS):
            steps = torch.randn(step.best * step.tries, 6, generator=generator)
            steps[::2, 3:] = 0  # a turn alone
            steps[1::4, :3] = 0  # a move alone
            self.register_buffer(f"steps{number}", steps, persistent=False)

    def forward(
        self,
        fine: Tensor,
        points: Tensor,
        look: Tensor,
        rotation: Tensor,
        translation: Tensor,
        camera: CropCamera,
        outline: Outline | None = None,
    ) -> tuple[Poses, Evidence]:
        """Poses and their scores, through which no gradient goes, and the evidence, which the loss judges.

        Args:
            fine: the fine map [B, H, W, C].
            points: of the object, in its own frame, [B, P, 3], m.
            look: what is known of each point, [B, P, 7]: see :class:`amt.hand.batch.Inputs`.
            rotation: the coarse one, [B, 3, 3], tried with others.
            translation: where the object's origin is seen, [B, 3], m: the place of all turns in the first round, if no outline
                says for each of them where it must be.
            outline: of the object, if it is known.
        """
        known_outline = None if outline is None else (outline.detach(), corners(points))
        points, look = thinned(points), thinned(look)
        evidence = self._maps(fine, look[..., 3:], known_outline)
        known = evidence.detach(), points, look[..., :3]
        with torch.no_grad():
            turns = torch.cat((rotation[:, None].float(), self.turns.expand(rotation.shape[0], -1, -1, -1)), dim=1)
            if outline is None:
                places = translation[:, None].float().expand(-1, turns.shape[1], -1)
            else:
                places = placed(evidence.corners, turns, translation, evidence.outline, camera)
            found = Poses(turns, places, pose_scores(*known, turns, places, camera))
            for number, step in enumerate(ROUNDS):
                steps = getattr(self, f"steps{number}").unflatten(0, (step.best, step.tries))
                turns, places = _moved(*found.best(step.best), steps, step, camera)
                found = found.and_those(turns, places, pose_scores(*known, turns, places, camera))
        return found, evidence

    def _maps(self, fine: Tensor, colours: Tensor, outline: tuple[Outline, Tensor] | None) -> Evidence:
        if self.training:
            colours = colours * drawn_like(colours[:, :1, :1], lambda mask: mask.bernoulli_(1 - COLOURLESS))
        cells, asked = self.cell(fine).flatten(1, 2).mT, self.colour(colours)
        shown, shape = cells.split((CHANNELS, 4), dim=1)
        maps = (asked @ shown / math.sqrt(CHANNELS), shape)
        return Evidence(
            *(m.float().unflatten(2, fine.shape[1:3]) * self.log_scale.exp() for m in maps), *(outline or ())
        )


@coordinates
def _moved(rotation: Tensor, translation: Tensor, steps: Tensor, step: Round, camera: CropCamera):
    """Poses around the best ones [B, N, ...]: rotations [B, N * tries, 3, 3] and translations [B, N * tries, 3] (m)."""
    turn = axis_angle_to_matrix(steps[..., :3] * step.angle)
    depth = translation[:, :, None, 2:]
    pixel = (camera.size / 2) * step.shift / camera.reference_focal()[:, None, None, None]
    across = translation[:, :, None, :2] / depth + steps[..., 3:5] * pixel
    moved = torch.cat((across, torch.ones_like(across[..., :1])), dim=-1) * depth * (steps[..., 5:] * step.depth).exp()
    return (turn @ rotation[:, :, None]).flatten(1, 2), moved.flatten(1, 2)


@coordinates
def pose_scores(
    maps: Evidence, points: Tensor, normals: Tensor, rotation: Tensor, translation: Tensor, camera: CropCamera
) -> Tensor:
    """How well poses fit, [B, K]: the mean of the evidence where points are seen, over those that face the camera.

    An outline adds :data:`OUTLINE_WEIGHT` times the log density of the poses' reaches.

    Args:
        maps: the evidence, over the whole crop.
        points, normals: [B, N, 3], m, in the object's frame.
        rotation, translation: [B, K, 3, 3] and [B, K, 3] (m), object to camera.
    """
    size = (camera.size, camera.size)
    looks = kernels.pose_scores(
        maps.colour, maps.surface, points, normals, rotation, translation, camera.intrinsics, image_size=size
    )
    if maps.outline is None:
        return looks
    reach = reach_of(maps.corners, rotation, translation, camera)
    return looks - OUTLINE_WEIGHT * maps.outline.unlikeliness(reach)


def spread_rotations(count: int) -> Tensor:
    """Evenly spread rotations [count, 3, 3]: the super-Fibonacci spiral of Alexa, "Super-Fibonacci spirals" (CVPR 2022)."""
    s = torch.arange(count, dtype=torch.float64) + 0.5
    share, turn = s / count, 2 * torch.pi * s
    a, b = turn / math.sqrt(2), turn / 1.533751168755204288118041
    r, q = share.sqrt(), (1 - share).sqrt()
    x, y, z, w = r * a.sin(), r * a.cos(), q * b.sin(), q * b.cos()
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3)).float()
