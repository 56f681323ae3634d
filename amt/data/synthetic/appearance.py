"""Colours: solid textures for objects, skin, table tops and backdrops. Linear RGB in [0, 1] unless said otherwise."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np

LATTICE = 32  # cells of the periodic noise along each axis


@lru_cache(maxsize=1)
def _lattice() -> np.ndarray:
    return np.random.default_rng(20).random((LATTICE,) * 3).astype(np.float32)


def noise(points: np.ndarray, cell: float) -> np.ndarray:
    """Value noise in [0, 1] at points [N, 3]: smooth over ``cell`` (same unit), float32 [N]."""
    scaled = points / cell
    low = np.floor(scaled).astype(np.int64)
    f = (scaled - low).astype(np.float32)
    f = f * f * (3 - 2 * f)
    a, b = low % LATTICE, (low + 1) % LATTICE
    table = _lattice()
    value = 0
    for i in (0, 1):
        for j in (0, 1):
            for k in (0, 1):
                corner = table[(b if i else a)[:, 0], (b if j else a)[:, 1], (b if k else a)[:, 2]]
                weight = (f[:, 0] if i else 1 - f[:, 0]) * (f[:, 1] if j else 1 - f[:, 1])
                value = value + corner * weight * (f[:, 2] if k else 1 - f[:, 2])
    return value


def blocks(points: np.ndarray, cell: np.ndarray | float) -> np.ndarray:
    """One random number in [0, 1] for each box of a grid: float32 [N]. Printed marks are thresholds of it."""
    a = np.floor(points / cell).astype(np.int64) % LATTICE
    return _lattice()[a[:, 0], a[:, 1], a[:, 2]]


# Base, accent and mark colours (hue, saturation, value) and a pattern by YCB class, near to the real products.
_PAINT = {
    1: ((0.60, 0.75, 0.45), (0.12, 0.10, 0.85), "label"),
    2: ((0.01, 0.85, 0.70), (0.13, 0.60, 0.90), "print"),
    3: ((0.14, 0.65, 0.92), (0.62, 0.70, 0.60), "print"),
    4: ((0.01, 0.88, 0.62), (0.10, 0.08, 0.92), "halves"),
    5: ((0.145, 0.95, 0.88), (0.02, 0.85, 0.60), "label"),
    6: ((0.56, 0.50, 0.75), (0.33, 0.55, 0.40), "halves"),
    7: ((0.07, 0.55, 0.30), (0.11, 0.15, 0.92), "print"),
    8: ((0.97, 0.80, 0.72), (0.00, 0.02, 0.95), "print"),
    9: ((0.60, 0.85, 0.50), (0.13, 0.80, 0.88), "print"),
    10: ((0.145, 0.80, 0.85), (0.10, 0.65, 0.35), "spots"),
    11: ((0.58, 0.80, 0.50), (0.58, 0.40, 0.75), "stripes"),
    12: ((0.00, 0.02, 0.90), (0.60, 0.80, 0.55), "label"),
    13: ((0.01, 0.85, 0.60), (0.03, 0.55, 0.85), "stripes"),
    14: ((0.01, 0.80, 0.55), (0.00, 0.05, 0.90), "halves"),
    15: ((0.05, 0.85, 0.80), (0.00, 0.05, 0.12), "ends"),
    16: ((0.09, 0.55, 0.66), (0.08, 0.60, 0.45), "wood"),
    17: ((0.04, 0.85, 0.72), (0.00, 0.02, 0.62), "ends"),
    18: ((0.00, 0.02, 0.82), (0.62, 0.70, 0.25), "ends"),
    19: ((0.00, 0.05, 0.15), (0.08, 0.85, 0.75), "ends"),
    20: ((0.00, 0.05, 0.18), (0.06, 0.85, 0.78), "ends"),
    21: ((0.99, 0.70, 0.72), (0.97, 0.45, 0.88), "checker"),
}


def paint(class_id: int, points: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Albedo, float32 [N, 3], of an object at points [N, 3] (m) of its own frame.

    Every pattern differs between the object's two ends and around its axis, so that its orientation can be seen.
    """
    base_hsv, accent_hsv, pattern = _PAINT[class_id]
    base, accent = _rgb(base_hsv), _rgb(accent_hsv)
    unit = (points / (extent / 2)).astype(np.float32)  # -1..1 along each axis
    long = int(np.argmax(extent))
    along, across = unit[:, long], unit[:, (long + 1) % 3]
    marks = blocks(points + 1.0, np.array([0.006, 0.006, 0.010])) > 0.72

    if pattern == "label":
        mix = ((np.abs(along + 0.15) < 0.45) & (np.abs(across) < 0.9)).astype(np.float32)
        mix = np.where((mix > 0) & marks & (across > -0.2), 0.25, mix)
    elif pattern == "print":
        panel = (along > 0.25) ^ (across > 0.45)
        mix = np.where(panel, 0.9, 0.0)
        mix = np.where(marks & (along < 0.15) & (along > -0.75), 0.9 - mix, mix)
    elif pattern == "halves":
        mix = np.where(along > 0.05, 1.0, 0.0)
        mix = np.where(marks & (np.abs(along) < 0.6) & (across > 0), 1 - mix, mix)
    elif pattern == "spots":
        mix = np.clip((noise(points + 1.0, 0.006) - 0.72) * 6, 0, 0.8) + np.clip((np.abs(along) - 0.86) * 8, 0, 1)
    elif pattern == "stripes":
        mix = np.where((np.sin(along * 14) > 0.55) | (across > 0.8), 1.0, 0.0)
    elif pattern == "wood":
        rings = np.linalg.norm(points[:, :2] + (0.07, 0.05), axis=1) + 0.012 * noise(points + 1.0, 0.03)
        mix = 0.5 + 0.5 * np.sin(rings * 900)
        mix = np.where((along > 0.8) | ((across > 0.75) & (along > 0.2)), 1.0, mix * 0.7)
    elif pattern == "checker":
        cell = np.floor(points / 0.0128).astype(int).sum(1) % 2
        mix = np.where(along > 0.4, 1.0, cell * 0.6)
    else:  # "ends": two materials along the longest axis
        mix = np.clip((along - 0.1) * 12, 0, 1)
        mix = np.where((along < -0.55) & (np.sin(along * 40) > 0.3), 0.6, mix)
    mix = np.clip(mix, 0, 1)[:, None].astype(np.float32)
    colour = base * (1 - mix) + accent * mix
    # A slow change around the object and fine grain.
    shade = 1 + 0.18 * unit[:, [(long + 2) % 3]] + 0.12 * (noise(points + 1.0, 0.004)[:, None] - 0.5)
    return np.clip(colour * shade, 0.01, 1).astype(np.float32)


def sleeve(rng: np.random.Generator) -> np.ndarray:
    """A plain colour, float32 [3], for the forearm's sleeve."""
    return _rgb((rng.random(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.85)))


def table_top(rng: np.random.Generator, size: int = 768) -> np.ndarray:
    """A random table top or cloth: uint8 [size, size, 3], sRGB."""
    base = _rgb((rng.random(), rng.uniform(0.0, 0.55), rng.uniform(0.25, 0.95)))
    other = np.clip(base * rng.uniform(0.45, 1.5) + rng.uniform(-0.1, 0.1, 3), 0.02, 1)
    kind = rng.choice(["plain", "grain", "tiles", "stripes", "cloth", "speckle"])
    x = np.linspace(0, 1, size, dtype=np.float32)
    if kind == "grain":
        mix = 0.5 + 0.5 * np.sin(60 * x[None] + 9 * fractal(rng, size, 4))
    elif kind == "tiles":
        n = rng.integers(5, 16)
        mix = ((np.floor(x * n)[None] + np.floor(x * n)[:, None]) % 2) * rng.uniform(0.4, 1)
    elif kind == "stripes":
        mix = (np.sin(rng.uniform(20, 90) * (x[None] + rng.uniform(-1, 1) * x[:, None])) > 0).astype(np.float32)
    elif kind == "cloth":
        mix = 0.5 + 0.25 * (np.sin(x * 500)[None] + np.sin(x * 500)[:, None]) + 0.4 * (fractal(rng, size, 3) - 0.5)
    elif kind == "speckle":
        mix = (fractal(rng, size, 7) > 0.6).astype(np.float32) * 0.8
    else:
        mix = fractal(rng, size, 5) * 0.5
    mix = np.clip(np.broadcast_to(mix, (size, size)) + 0.25 * (fractal(rng, size, 6) - 0.5), 0, 1)[..., None]
    return to_srgb((base * (1 - mix) + other * mix) * 0.8)


def backdrop(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """What stands around the table, out of focus: uint8 [height, width, 3], sRGB."""
    import cv2

    small = np.zeros((60, max(2, 60 * width // height), 3), np.float32)
    small += _rgb((rng.random(), rng.uniform(0, 0.35), rng.uniform(0.2, 0.95)))
    for _ in range(rng.integers(10, 30)):
        corner = (rng.random(2) * small.shape[:2]).astype(int)
        edge = rng.integers(4, 30, 2)
        colour = _rgb((rng.random(), rng.uniform(0, 0.7), rng.uniform(0.05, 1)))
        small[corner[0] : corner[0] + edge[0], corner[1] : corner[1] + edge[1]] = colour
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.6, 2.0)))
    return cv2.resize(to_srgb(small), (width, height), interpolation=cv2.INTER_CUBIC)


def fractal(rng: np.random.Generator, size: int, octaves: int) -> np.ndarray:
    """Noise of several scales in [0, 1]: float32 [size, size]."""
    import cv2

    total, weight = np.zeros((size, size), np.float32), 0.0
    for octave in range(octaves):
        cells = 3 * 2**octave
        share = 0.6**octave
        total += share * cv2.resize(
            rng.random((cells, cells), np.float32), (size, size), interpolation=cv2.INTER_LINEAR
        )
        weight += share
    return total / weight


@lru_cache(maxsize=1)
def _gamma_table() -> np.ndarray:
    return np.round(255 * (np.arange(4096) / 4095) ** (1 / 2.2)).astype(np.uint8)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """uint8 sRGB (a plain 2.2 gamma) of linear values; what exceeds [0, 1] is clipped."""
    return _gamma_table()[(np.clip(linear, 0, 1) * 4095).astype(np.int32)]


def _rgb(hsv) -> np.ndarray:
    """Linear RGB, float32 [3], of an sRGB colour given as hue, saturation, value."""
    return (np.array(colorsys.hsv_to_rgb(*hsv)) ** 2.2).astype(np.float32)
