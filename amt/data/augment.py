"""Training-time variation. Geometry changes the image, its intrinsics and the labels together; colour only the image.

All randomness comes from (seed, epoch, index): the same sample in the same epoch looks the same, whichever worker or rank
draws it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from amt.data.config import AugmentConfig
from amt.hand.batch import Targets
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one sample in one epoch.

    Args:
        seed, epoch, index: not negative, of any size.
    """
    if seed < 2**32 and epoch < 2**32 and index < 2**64:
        key = [(seed << 32) ^ epoch, index]
    else:
        key = np.random.SeedSequence([seed, epoch, index]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def draw_geometry(config: AugmentConfig, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """An in-plane rotation (rad) and the change of a box: [dx, dy] in sides and a factor for the side, float64 [3]."""
    angle, zoom, dx, dy = rng.uniform(-1, 1, 4)
    return float(np.radians(config.turn) * angle), np.array(
        [dx * config.shift, dy * config.shift, 2 ** (zoom * config.zoom)]
    )


def vary_colour(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """A varied copy of a uint8 image [S, S, 3]."""
    import cv2

    size = image.shape[0]
    draws = rng.uniform(-1, 1, 8)
    share = rng.random(6)
    if config.hue:
        # Colour space rotated about its grey axis: hue without leaving RGB.
        rotation = cv2.Rodrigues(np.full(3, np.radians(config.hue * draws[6]) / np.sqrt(3)))[0]
        image = cv2.transform(image, rotation)
    image = cv2.LUT(image, _tone_curves(config, draws)[None])
    if share[0] < config.blur:
        image = cv2.GaussianBlur(image, (5, 5), 0.4 + 1.2 * share[1])
    if config.noise:
        pool = _noise_pool()
        start = int(share[2] * (len(pool) - image.size))
        grain = pool[start : start + image.size].reshape(image.shape)
        strength = float(config.noise * share[3]) / 32
        image = cv2.addWeighted(image.astype(np.int16), 1.0, grain, strength, 0, dtype=cv2.CV_8U)
    if share[4] < config.erase:
        height, width = (size * (0.1 + 0.25 * rng.random(2))).astype(int)
        y, x = (rng.random(2) * (size - height, size - width)).astype(int)
        image[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    if share[5] < config.grey:  # last: a grey camera's noise is grey, too
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def _tone_curves(config: AugmentConfig, draws: np.ndarray) -> np.ndarray:
    """uint8 [256, 3]: gain, contrast, gamma and tint in one table."""
    level = np.arange(256, dtype=np.float32)[:, None] / 255
    gain = 2.0 ** (config.brightness * draws[0] + config.tint * draws[3:6])
    curve = (level * gain) ** (2.0 ** (config.gamma * draws[1]))
    curve = (curve - 0.45) * (1 + config.contrast * draws[2]) + 0.45
    return np.clip(curve * 255, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _noise_pool() -> np.ndarray:
    """int16 noise with a standard deviation of 32 grey levels."""
    return np.round(np.random.default_rng(3).normal(0, 32, 3_000_017)).astype(np.int16)


def rotate_targets(targets: Targets, roll: Tensor) -> Targets:
    """Targets in the frame of a camera that is rotated about its optical axis.

    Args:
        roll: float32 [B, 3, 3], :func:`amt.hand.camera.camera_roll`.
    """

    def points(x: Tensor) -> Tensor:
        return x @ roll.mT

    # The hand rotates about J0(betas), which does not move with the pose: wrist = J0 + translation.
    wrist = targets.joints[:, 0]
    rotated = points(targets.joints)
    wrist_rotation = matrix_to_axis_angle(roll @ axis_angle_to_matrix(targets.pose[:, :3]))
    return replace(
        targets,
        joints=rotated,
        pose=torch.cat([wrist_rotation, targets.pose[:, 3:]], 1),
        translation=targets.translation + rotated[:, 0] - wrist,
        vertices=points(targets.vertices),
        object_rotation=roll @ targets.object_rotation,
        object_translation=points(targets.object_translation[:, None])[:, 0],
    )
