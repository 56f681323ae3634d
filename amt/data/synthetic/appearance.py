"""Colours: solid textures for objects, skin, table tops and backdrops. Linear RGB in [0, 1] unless said otherwise."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from pathlib import Path

import numpy as np

from amt.data.images import read_image

LATTICE = 32  # cells of the periodic noise along each axis
FINE = 4  # samples of the noise along a cell


@lru_cache(maxsize=1)
def _lattice() -> np.ndarray:
    return np.random.default_rng(20).random((LATTICE,) * 3).astype(np.float32)


@lru_cache(maxsize=1)
def noise_pool() -> np.ndarray:
    """uint8 [(LATTICE * FINE)**3]: the noise between the lattice's numbers, smoothly interpolated; one look-up a point."""
    at = (np.arange(FINE, dtype=np.float32) + 0.5) / FINE
    share, values = at * at * (3 - 2 * at), _lattice()
    for axis in range(3):
        low = np.expand_dims(values, axis + 1)
        high = np.roll(low, -1, axis)
        weights = share.reshape([FINE if k == axis + 1 else 1 for k in range(4)])
        values = (low + weights * (high - low)).reshape(
            [n * FINE if k == axis else n for k, n in enumerate(values.shape)]
        )
    return np.round(255 * values).astype(np.uint8).ravel()


def noise(points: np.ndarray, cell: float) -> np.ndarray:
    """Value noise in [0, 1] at points [N, 3]: smooth over ``cell`` (same unit), in steps of a quarter of it, float32 [N]."""
    side = LATTICE * FINE
    at = np.floor(np.asarray(points, np.float32) * np.float32(FINE / cell)).astype(np.int32) & (side - 1)
    return noise_pool().take((at[:, 0] * side + at[:, 1]) * side + at[:, 2]) * np.float32(1 / 255)


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

# What packages print on their front, and the panel with bars on their back, by YCB class: without them a can looks the same
# however it is turned about its axis, which the real one does not.
_FRONT = {
    1: (0.09, 0.75, 0.85),
    2: (0.58, 0.65, 0.75),
    3: (0.99, 0.75, 0.75),
    4: (0.15, 0.75, 0.90),
    5: (0.38, 0.70, 0.50),
    6: (0.13, 0.75, 0.90),
    7: (0.99, 0.80, 0.75),
    8: (0.60, 0.60, 0.60),
    9: (0.01, 0.85, 0.75),
    12: (0.99, 0.75, 0.75),
    18: (0.36, 0.65, 0.50),
}
_BACK = ((0.12, 0.06, 0.93), (0.0, 0.0, 0.12))


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
    mix = np.clip(mix, 0, 1).astype(np.float32)
    colours = [a * (1 - mix) + b * mix for a, b in zip(base, accent, strict=True)]
    if class_id in _FRONT:
        colours = _print_package(colours, along, across, unit[:, (long + 2) % 3], _rgb(_FRONT[class_id]))
    # A slow change around the object and fine grain.
    shade = 1 + 0.18 * unit[:, (long + 2) % 3] + 0.12 * (noise(points + 1.0, 0.004) - 0.5)
    channels = [np.clip(colour * shade, 0.01, 1) for colour in colours]
    return np.stack(channels).astype(np.float32).T


def _print_package(colours, along: np.ndarray, across: np.ndarray, beside: np.ndarray, front: np.ndarray) -> list:
    """Three channels [N] with a front panel and a back panel, from the coordinates along the longest axis and about it."""
    azimuth = np.abs(np.arctan2(beside, across))
    panel = (azimuth < 0.95) & (along > -0.5) & (along < 0.8)
    emblem = panel & (azimuth**2 + 3 * (along - 0.3) ** 2 < 0.25)
    paper = (azimuth > 2.3) & (np.abs(along) < 0.55)
    bars = paper & (np.sin(along * 30) > 0.25) & (azimuth > 2.6)
    light, dark = (_rgb(hsv) for hsv in _BACK)
    return [
        np.where(bars, dark[k], np.where(paper, light[k], np.where(emblem, light[k], np.where(panel, front[k], c))))
        for k, c in enumerate(colours)
    ]


def sleeve(rng: np.random.Generator) -> np.ndarray:
    """A plain colour, float32 [3], for the forearm's sleeve."""
    return _rgb((rng.random(), 0.8 * rng.random() ** 1.5, rng.uniform(0.1, 0.85)))


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB, float32 [3]: any hue, mostly of low saturation."""
    return _rgb((rng.random(), 0.9 * rng.random() ** 2, rng.uniform(0.08, 0.95)))


def table_top(rng: np.random.Generator, pictures: list[Path], size: int = 1024) -> np.ndarray:
    """A random table top or cloth, made or from a picture: uint8 [size, size, 3], sRGB."""
    import cv2

    kinds = ["plain", "grain", "planks", "tiles", "stripes", "cloth", "speckle", "picture", "picture", "picture"]
    kind = rng.choice(kinds[: 10 if pictures else 7])
    base = _rgb(
        (rng.choice([rng.uniform(0.04, 0.12), rng.random()]), 0.6 * rng.random() ** 1.5, rng.uniform(0.2, 0.95))
    )
    if kind == "picture":
        return _picture_top(rng, pictures[rng.integers(len(pictures))], base, size)
    other = np.clip(base * rng.uniform(0.45, 1.5) + rng.uniform(-0.06, 0.06, 3), 0.02, 1)
    x = np.linspace(0, 1, size, dtype=np.float32)
    if kind == "grain":
        mix = 0.5 + 0.5 * np.sin(60 * x[None] + 9 * fractal(rng, size, 4))
    elif kind == "planks":
        count = int(rng.integers(8, 24))
        board = np.minimum((x * count).astype(int), count - 1)
        rows = fractal(rng, size, 6)[rng.integers(0, size, count)[board], :]  # each board has a grain of its own
        mix = 0.5 * rng.random(count).astype(np.float32)[board][:, None] + np.clip(1.6 * (rows - 0.3), 0, 0.5)
        mix += 0.7 * np.clip(1 - np.abs((x * count) % 1 - 0.5)[:, None] * -60 - 29, 0, 1)
    elif kind == "tiles":
        n = int(rng.integers(5, 16))
        wave = np.sin(np.pi * n * x)
        mix = (0.5 + 0.5 * np.clip(wave[None] * wave[:, None] * size / (3 * n), -1, 1)) * rng.uniform(0.4, 1)
    elif kind == "stripes":
        pitch = rng.uniform(20, 90)
        mix = 0.5 + 0.5 * np.clip(np.sin(pitch * (x[None] + rng.uniform(-1, 1) * x[:, None])) * size / pitch / 2, -1, 1)
    elif kind == "cloth":
        mix = 0.5 + 0.25 * (np.sin(x * 900)[None] + np.sin(x * 900)[:, None]) + 0.4 * (fractal(rng, size, 3) - 0.5)
    elif kind == "speckle":
        mix = np.clip((fractal(rng, size, 8) - 0.58) * 12, 0, 0.8)
    else:
        mix = fractal(rng, size, 6) * 0.5
    mix = np.ascontiguousarray(np.broadcast_to(mix, (size, size)), np.float32)
    mix = cv2.addWeighted(mix, 255, fractal(rng, size, 8), 0.25 * 255, -0.125 * 255, dtype=cv2.CV_8U)
    # 256 shades between two similar colours are more than the picture's levels.
    share = np.linspace(0, 1, 256)[:, None]
    return cv2.LUT(cv2.cvtColor(mix, cv2.COLOR_GRAY2RGB), to_srgb((base * (1 - share) + other * share) * 0.8)[None])


def _picture_top(rng: np.random.Generator, path: Path, base: np.ndarray, size: int) -> np.ndarray:
    """A picture as the table's pattern, repeated in mirror images; a grey one takes the colour ``base``."""
    import cv2

    picture = scene_picture(path)
    tile = int(size * rng.uniform(0.2, 0.55))
    tile = cv2.resize(
        picture, (tile, max(8, tile * picture.shape[0] // picture.shape[1])), interpolation=cv2.INTER_AREA
    )
    if np.ptp(tile, axis=2).max() < 12:  # grey
        tone = tile.mean() / 255
        tile = to_srgb(base * (tile / 255.0) ** 2.2 / max(tone**2.2, 0.05) * 0.7)
    if rng.random() < 0.5:
        tile = np.rot90(tile)
    rows, columns = size - tile.shape[0], size - tile.shape[1]
    top, left = int(rng.integers(0, max(rows, 1))), int(rng.integers(0, max(columns, 1)))
    around = (top, max(rows - top, 0), left, max(columns - left, 0))
    return np.ascontiguousarray(
        cv2.copyMakeBorder(np.ascontiguousarray(tile), *around, cv2.BORDER_REFLECT)[:size, :size]
    )


def backdrop(
    rng: np.random.Generator, height: int, width: int, pictures: list[Path], light: float, blur: float
) -> np.ndarray:
    """What stands around the table: uint8 [height, width, 3], sRGB.

    Args:
        pictures: files to choose from; () for coloured shapes.
        light: how bright the scene is, 1 for a common lamp; a picture's mean comes nearer to it.
        blur: px: standard deviation, beside the defocus that the camera adds.
    """
    import cv2

    if not pictures:
        return _shapes(rng, height, width)
    picture = scene_picture(pictures[rng.integers(len(pictures))])
    whole = min(picture.shape[0] / height, picture.shape[1] / width)  # the largest part of the picture's shape
    part = whole * rng.uniform(0.55, 1.0)
    rows, columns = max(2, int(part * height)), max(2, int(part * width))
    top, left = rng.integers(0, (picture.shape[0] - rows + 1, picture.shape[1] - columns + 1))
    picture = picture[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    method = cv2.INTER_AREA if part > 1 else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method)
    mean = np.float32(np.array(cv2.sumElems(picture)[:3]) / (height * width) / 255)
    wanted = (0.35 + 0.2 * light) * rng.uniform(0.6, 1.2)
    gain = (wanted / max(float(mean.mean()), 0.05)) ** 0.6 * rng.uniform(0.95, 1.05, 3)
    picture = cv2.multiply(picture, (*map(float, gain), 1.0), dtype=cv2.CV_8U)
    return cv2.GaussianBlur(picture, (0, 0), blur) if blur > 0.3 else picture


@lru_cache(maxsize=16)
def scene_picture(path: Path, most: int = 1024) -> np.ndarray:
    """uint8 [H, W, 3], sRGB: a file's picture, at most ``most`` px a side. Raises ImageError."""
    import cv2

    image, _ = read_image(path)
    side = max(image.shape[:2])
    if side <= most:
        return image
    return cv2.resize(image, None, fx=most / side, fy=most / side, interpolation=cv2.INTER_AREA)


def _shapes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured rectangles out of focus."""
    import cv2

    small = np.zeros((60, max(2, 60 * width // height), 3), np.float32)
    small += random_colour(rng)
    for _ in range(rng.integers(10, 30)):
        corner = (rng.random(2) * small.shape[:2]).astype(int)
        edge = rng.integers(4, 30, 2)
        small[corner[0] : corner[0] + edge[0], corner[1] : corner[1] + edge[1]] = random_colour(rng)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(0.6, 2.0)))
    return cv2.resize(to_srgb(small), (width, height), interpolation=cv2.INTER_CUBIC)


def fractal(rng: np.random.Generator, size: int, octaves: int) -> np.ndarray:
    """Noise of several scales in [0, 1]: float32 [size, size]. Each scale is laid upon the coarser ones, enlarged."""
    import cv2

    total, weight = rng.random((3, 3), np.float32), 1.0
    for octave in range(1, octaves):
        cells, share = 3 * 2**octave, 0.6**octave
        total = cv2.resize(total, (cells, cells), interpolation=cv2.INTER_LINEAR)
        total += np.float32(share) * rng.random((cells, cells), np.float32)
        weight += share
    return cv2.resize(total * np.float32(1 / weight), (size, size), interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=1)
def _gamma_table() -> np.ndarray:
    return np.round(255 * (np.arange(4096) / 4095) ** (1 / 2.2)).astype(np.uint8)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """uint8 sRGB (a plain 2.2 gamma) of linear values; what exceeds [0, 1] is clipped."""
    return _gamma_table().take((np.clip(linear, 0, 1) * 4095).astype(np.int32))


def _rgb(hsv) -> np.ndarray:
    """Linear RGB, float32 [3], of an sRGB colour given as hue, saturation, value."""
    return (np.array(colorsys.hsv_to_rgb(*hsv)) ** 2.2).astype(np.float32)
