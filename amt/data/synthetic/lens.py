"""From light to a file's pixels: how a camera of ``CameraConfig`` blurs, exposes and spoils what the renderer paints.

Blurs are kernels on sRGB values: a disc for defocus, a line for motion, a Gaussian for lens and sensor. Exposure and white
balance are exact in linear light, as a table of 256 levels. Noise has the variance read² + shot² · level / 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from amt.data.synthetic.cameras import CameraConfig

LEVELS = (0.0, 0.6, 1.2, 2.4, 4.8, 9.6)  # px: radii between which a defocused picture is blended
LONGEST = 60.0  # px of a motion's line
NEGLIGIBLE = 0.3  # px: a disc or a line that small changes nothing
POOL = (640, 900)  # rows and columns of prepared noise beyond which a picture's part of it begins


@dataclass(frozen=True)
class Shot:
    """The settings of a camera in a sequence."""

    exposure_time: float  # s
    shake: np.ndarray  # float64 [2], px/s
    aperture: float  # m
    focus: float  # m: the distance that is sharp
    softness: float  # px
    shot_noise: float
    read_noise: float
    curve: np.ndarray  # uint8 [1, 256, 3]: exposure and white balance
    jpeg_quality: int
    occluded: bool

    def radius(self, depth: np.ndarray | float, focal: float) -> np.ndarray:
        """Radius, px, of the disc that a point at ``depth`` (m; inf is allowed) becomes: thin lens, focused far beyond f."""
        return float(0.5 * self.aperture * focal) * np.abs(1 / np.maximum(depth, 1e-3) - 1 / self.focus)


def draw_shot(config: CameraConfig, focus: float, rng: np.random.Generator) -> Shot:
    """Settings within the configuration's ranges; always as many draws, so that a field does not shift the others."""
    u = rng.random(12)

    def between(name: str, share: float) -> float:
        low, high = getattr(config, name)
        return low + share * (high - low)

    direction = 2 * np.pi * u[0]
    warm = between("white_balance", u[7])
    gain = 2.0 ** between("exposure", u[6]) * np.array([1 + warm, 1.0, 1 - warm])
    level = (np.arange(256) / 255)[:, None]
    curve = np.clip(255 * np.minimum(level**2.2 * gain, 1) ** (1 / 2.2) + 0.5, 0, 255).astype(np.uint8)
    return Shot(
        exposure_time=between("exposure_time", u[1]) / 1000,
        shake=between("shake", u[2]) * np.array([np.cos(direction), np.sin(direction)]),
        aperture=between("aperture", u[3]) / 1000,
        focus=focus,
        softness=between("softness", u[4]),
        shot_noise=between("shot_noise", u[5]),
        read_noise=between("read_noise", u[8]),
        curve=np.ascontiguousarray(curve[None]),
        jpeg_quality=round(between("jpeg_quality", u[9])),
        occluded=bool(u[10] < config.occluded),
    )


def disc(radius: float) -> np.ndarray:
    """float32 [K, K], sum 1: a disc with a soft edge."""
    half = int(np.ceil(radius))
    axis = np.arange(-half, half + 1)
    kernel = np.clip(radius + 0.5 - np.hypot(axis, axis[:, None]), 0, 1) if radius > NEGLIGIBLE else np.ones((1, 1))
    return (kernel / kernel.sum()).astype(np.float32)


def line(motion: np.ndarray) -> np.ndarray:
    """float32 [K, K], sum 1: a line of ``motion`` [2] (px), half before and half after the middle of the exposure."""
    length = float(np.hypot(*motion))
    if length < NEGLIGIBLE:
        return np.ones((1, 1), np.float32)
    motion = motion * min(1.0, LONGEST / length)
    half = int(np.ceil(np.abs(motion).max() / 2)) + 1
    steps = 4 * half + 1
    at = ((np.arange(steps) + 0.5) / steps - 0.5)[:, None] * motion + half
    low = np.floor(at).astype(int)
    part = at - low
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for i in (0, 1):
        for j in (0, 1):
            weight = (part[:, 0] if i else 1 - part[:, 0]) * (part[:, 1] if j else 1 - part[:, 1])
            np.add.at(kernel, (np.minimum(low[:, 1] + j, 2 * half), np.minimum(low[:, 0] + i, 2 * half)), weight)
    return (kernel / kernel.sum()).astype(np.float32)


def soft(sigma: float) -> np.ndarray:
    """float32 [K, K], sum 1: a Gaussian."""
    half = int(np.ceil(2.5 * sigma))
    axis = np.arange(-half, half + 1)
    kernel = np.exp(-0.5 * (axis**2 + axis[:, None] ** 2) / max(sigma, 1e-3) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


def joined(*kernels: np.ndarray) -> np.ndarray:
    """The kernel that does what ``kernels`` do one after another."""
    whole = np.ones((1, 1), np.float32)
    for kernel in kernels:
        pad = (kernel.shape[0] - 1) // 2
        whole = cv2.filter2D(np.pad(whole, pad), -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return whole


def defocus(image: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """An image whose pixels are spread over discs of ``radius`` [H, W] px: blended between pictures of :data:`LEVELS`."""
    most = float(radius.max())
    if most < NEGLIGIBLE:
        return image
    out, before = image.copy(), image
    for low, high in pairwise(LEVELS):
        if low >= most:
            break
        after = cv2.filter2D(image, -1, disc(high), borderType=cv2.BORDER_REPLICATE)
        share = np.clip((radius - low) / (high - low), 0, 1).astype(np.float32)
        mixed = cv2.blendLinear(before, after, 1 - share, share)
        cv2.copyTo(mixed, (radius > low).view(np.uint8), out)
        before = after
    return out


def over(image: np.ndarray, layer: np.ndarray, top: int, left: int) -> None:
    """Puts a premultiplied layer, uint8 [h, w, 4], upon an image in place."""
    part = image[top : top + layer.shape[0], left : left + layer.shape[1]]
    through = cv2.cvtColor(255 - layer[..., 3], cv2.COLOR_GRAY2RGB)
    part[...] = cv2.add(cv2.multiply(part, through, scale=1 / 255), np.ascontiguousarray(layer[..., :3]))


def expose(image: np.ndarray, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """The image with exposure, white balance and noise."""
    image = cv2.LUT(image, shot.curve)
    sigma = np.sqrt(shot.read_noise**2 + shot.shot_noise**2 * np.arange(256) / 255)
    if not sigma.any():
        return image
    pool = noise_pool()
    top, left = rng.integers(0, np.array(pool.shape[:2]) - image.shape[:2])
    grain = pool[top : top + image.shape[0], left : left + image.shape[1]]
    scale = cv2.LUT(image, np.minimum(np.round(sigma * 256), 32767).astype(np.int16)[None])
    return cv2.add(image, cv2.multiply(grain, scale, scale=1 / 32768), dtype=cv2.CV_8U)


@lru_cache(maxsize=1)
def noise_pool() -> np.ndarray:
    """int16 [R, C, 3]: noise with a standard deviation of 128, larger than a picture so that parts of it differ."""
    pool = np.random.default_rng(7).standard_normal((480 + POOL[0], 640 + POOL[1], 3), np.float32)
    return np.round(128 * pool).astype(np.int16)
