"""What is drawn for a sample: the numbers that decide how it is varied.

All of them derive from (seed, epoch, index): the same sample in the same epoch looks the same, whatever batch, worker, rank or
device it is in. Only the grain of the noise differs between the frames of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from amt.data.config import AugmentConfig
from amt.hand.tensors import TensorFields

NOISE_POOL = 3_000_017  # values; longer than any crop, so that crops start at many places
BACKGROUNDS = 64  # pictures to choose from where no folder is named
_COLUMNS = {  # uniform numbers in [0, 1) a sample; new ones go to the end, so that the others stay as they are
    "angle": 1, "zoom": 1, "shift": 2, "tilt": 2,
    "brightness": 1, "gamma": 1, "contrast": 1, "tint": 3, "hue": 1,
    "blur": 2, "noise": 1, "erase": 8, "grey": 1,
    "occlude": 13, "background": 2, "loose": 1,
}  # fmt: skip
_SLICES = dict(zip(_COLUMNS, np.split(np.arange(sum(_COLUMNS.values())), np.cumsum([*_COLUMNS.values()])[:-1])))
LOOSE_SHIFT, LOOSE_ZOOM = 0.3, 0.6  # in place of a configuration's, for samples in a loose square
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, epoch: int, index: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [B, count]: row k depends on (seed, epoch, index[k]) alone.

    A counter-based generator: SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014) of key + counter.

    Args:
        seed, epoch: not negative, of any size.
        index: int64 [B].
    """
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.asarray(index).astype(np.uint64)) ^ _run_key(seed, epoch))
        state = key[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        return (_mix(state) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=8)
def _run_key(seed: int, epoch: int) -> np.uint64:
    return np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class View(TensorFields):
    """How the camera of a crop differs from the one of the frame. Float64, on the CPU."""

    rotation: Tensor  # [B, 3, 3]: from the frame's camera to the crop's
    shift: Tensor  # [B, 2], sides of the box
    zoom: Tensor  # [B], factor of the box's side


@dataclass(frozen=True)
class Look(TensorFields):
    """What happens to the pixels; None where the configuration switches it off."""

    hue: Tensor | None  # float32 [B, 3, 3]
    curves: Tensor  # uint8 [B, 3, 256]
    sigma: Tensor | None  # float32 [B], px of a Gaussian blur; 0 for none
    grain: Tensor | None  # int64 [B], where in the pool of noise
    noise: Tensor | None  # float32 [B], grey levels
    erased: Tensor | None  # int64 [B, 4], px: top, left, bottom, right; empty for none
    erased_colour: Tensor | None  # uint8 [B, 3]
    occluder: Tensor | None  # float32 [B, 12], see amt.data.pixels.occluders; half axes of 0 for none
    background: Tensor | None  # int64 [B]: number of the picture, -1 for none
    grey: Tensor | None  # bool [B]


def draw(
    config: AugmentConfig, seed: int, epoch: int, key: np.ndarray, index: np.ndarray, size: int, backgrounds: int = 0
) -> tuple[View, Look]:
    """The variation of samples in an epoch.

    Args:
        key: int64 [B]: the frame's index, or that of its window's first frame.
        index: int64 [B]: the frame's own index.
        size: px, side of the crop.
        backgrounds: how many pictures there are to choose from.
    """
    u = uniforms(seed, epoch, key, sum(_COLUMNS.values()))
    share = {name: u[:, columns] for name, columns in _SLICES.items()}
    both = {name: 2 * values - 1 for name, values in share.items()}  # in [-1, 1)
    angle, tilt = np.radians(config.turn) * both["angle"][:, 0], np.radians(config.perspective) * both["tilt"]
    loose = share["loose"] < config.loose
    shift, zoom = np.where(loose, LOOSE_SHIFT, config.shift), np.where(loose, LOOSE_ZOOM, config.zoom)
    view = View(
        rotation=torch.from_numpy(_rotation(angle, tilt)),
        shift=torch.from_numpy(shift * both["shift"]),
        zoom=torch.from_numpy(2 ** (zoom * both["zoom"])[:, 0]),
    )
    blur, erase, occlude, background = (share[name] for name in ("blur", "erase", "occlude", "background"))

    def only(wanted: object, values: np.ndarray, dtype: type) -> Tensor | None:
        return torch.from_numpy(np.ascontiguousarray(values, dtype)) if wanted else None

    grain = uniforms(seed, epoch, index ^ (1 << 62), 1)[:, 0]  # another key: not one of the numbers above
    look = Look(
        hue=only(config.hue, _about_grey(np.radians(config.hue) * both["hue"][:, 0]), np.float32),
        curves=torch.from_numpy(_tone_curves(config, both)),
        sigma=only(config.blur, np.where(blur[:, 0] < config.blur, 0.4 + 1.2 * blur[:, 1], 0), np.float32),
        grain=only(config.noise, grain * (NOISE_POOL - 3 * size * size), np.int64),
        noise=only(config.noise, config.noise * share["noise"][:, 0], np.float32),
        erased=only(config.erase, _rectangles(erase[:, 0] < config.erase, erase[:, 1:5], size), np.int64),
        erased_colour=only(config.erase, 256 * erase[:, 5:], np.uint8),
        occluder=only(config.occlude, _occluders(occlude[:, 0] < config.occlude, occlude[:, 1:], size), np.float32),
        background=only(
            config.background,
            np.where(background[:, 0] < config.background, background[:, 1] * backgrounds, -1),
            np.int64,
        ),
        grey=only(config.grey, share["grey"][:, 0] < config.grey, bool),
    )
    return view, look


def _rotation(angle: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Rz(angle) Ry(tilt 1) Rx(tilt 0): the camera looks elsewhere, then rotates about its optical axis."""

    def about(axis: int, a: np.ndarray) -> np.ndarray:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.zeros((len(a), 3, 3))
        matrix[:, axis, axis] = 1
        matrix[:, i, i] = matrix[:, j, j] = np.cos(a)
        matrix[:, i, j], matrix[:, j, i] = -np.sin(a), np.sin(a)
        return matrix

    return about(2, angle) @ about(1, tilt[:, 1]) @ about(0, tilt[:, 0])


def _about_grey(angle: np.ndarray) -> np.ndarray:
    """Rotations [B, 3, 3] of colour space about its grey axis: hue without leaving RGB (Rodrigues' formula)."""
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return c * np.eye(3) + s * cross + (1 - c) / 3


def _tone_curves(config: AugmentConfig, both: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 [B, 3, 256]: gain, contrast, gamma and tint in one table."""
    level = np.arange(256, dtype=np.float32) / 255
    gain = 2.0 ** (config.brightness * both["brightness"] + config.tint * both["tint"])
    gamma = 2.0 ** (config.gamma * both["gamma"])
    # (level gain) ** gamma in two factors: the powers of 256 levels are taken once for three channels
    curve = (level ** gamma.astype(np.float32))[:, None] * (gain**gamma).astype(np.float32)[..., None]
    curve = (curve - 0.45) * (1 + config.contrast * both["contrast"]).astype(np.float32)[..., None] + 0.45
    return np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)


def _rectangles(wanted: np.ndarray, share: np.ndarray, size: int) -> np.ndarray:
    """int64 [B, 4]: top, left, bottom, right of a rectangle of 10 to 35 % of the crop's sides."""
    sides = (size * (0.1 + 0.25 * share[:, :2])).astype(np.int64) * wanted[:, None]
    start = (share[:, 2:] * (size - sides)).astype(np.int64)
    return np.concatenate([start, start + sides], 1)


def _occluders(wanted: np.ndarray, share: np.ndarray, size: int) -> np.ndarray:
    """float64 [B, 12]: centre x, y and half axes (px), angle (rad), exponent, colour, stripes' amplitude, frequency, phase."""
    x, y, colour = size * share[:, :1], size * share[:, 1:2], 255 * share[:, 6:9]
    axes = size * (0.05 + 0.2 * share[:, 2:4]) * wanted[:, None]
    angle, exponent = np.pi * share[:, 4:5], 2 + 6 * share[:, 5:6]
    stripes = share[:, 9:12] * (60, 40 / size, 2 * np.pi)  # amplitude, frequency, phase
    return np.concatenate([x, y, axes, angle, exponent, colour, stripes], 1)
