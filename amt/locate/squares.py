"""From joints in a picture to the square to look at next, and whether a square has come to rest."""

from __future__ import annotations

import numpy as np

from amt.data.config import CropConfig
from amt.data.crops import centred_square, square_around

SETTLED = 0.05  # a square that moves or grows by less than this share of its side is at rest
SMALLEST = 24.0  # px


def next_box(pixels: np.ndarray, height: int, width: int, scale: float = CropConfig.box_scale) -> np.ndarray:
    """float64 [3]: where to look after joints were seen at ``pixels`` [21, 2].

    Their square, with its centre clipped to the image and its side between 24 px and 1.5 times the image's longer side.
    Joints that are not finite lead back to the centred square.
    """
    if not np.isfinite(pixels).all():
        return centred_square(height, width)
    cx, cy, side = square_around(pixels, scale)
    largest = max(SMALLEST, 1.5 * max(height, width))
    return np.array((np.clip(cx, 0, width - 1), np.clip(cy, 0, height - 1), np.clip(side, SMALLEST, largest)))


def moved(before: np.ndarray, after: np.ndarray) -> float:
    """How far a square moved or grew, as a share of its side."""
    return float(np.abs(after - before).max() / before[2])


def on_grid(square: np.ndarray) -> np.ndarray:
    """A square (cx, cy, side; px) rounded to 1/128 to 1/64 of its side.

    Networks round otherwise in batches of another size. A finder's box then differs by a fraction of a pixel, and what is found
    in one crop decides on the next. On a grid both are the same but in rare cases. Squares of training are off by more.
    """
    square = np.asarray(square, np.float64)
    step = 2.0 ** np.floor(np.log2(square[2] / 64))
    return np.round(square / step) * step
