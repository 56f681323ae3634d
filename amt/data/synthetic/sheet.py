"""A contact sheet: one picture that shows twelve frames of a set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from amt.data.errors import DataError
from amt.files import check_writable

COLUMNS, ROWS = 4, 3
TILE = (320, 240)  # px: width and height


def check_sheet(path: Path) -> None:
    """Raises DataError unless a sheet can be written at ``path``: before the rendering, not after it."""
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png") or path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"--sheet: {path} cannot be written; name a .jpg or .png file in a folder that exists")
    check_writable(path)


def write_sheet(root: Path, path: Path) -> None:
    """Writes frames of evenly spaced sequences, each by another camera, to an image file. Raises DataError."""
    sequences = sorted(meta.parent for meta in root.glob("*/*/meta.yml"))
    tiles = []
    for k in range(COLUMNS * ROWS):
        pictures = sorted(sequences[k * len(sequences) // (COLUMNS * ROWS)].glob("*/color_*.jpg"))
        image = cv2.imread(str(pictures[(5 * k * len(pictures) // 8 + len(pictures) // 16) % len(pictures)]))
        tiles.append(cv2.resize(image, TILE, interpolation=cv2.INTER_AREA))
    sheet = np.vstack([np.hstack(tiles[row * COLUMNS : (row + 1) * COLUMNS]) for row in range(ROWS)])
    quality = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 85]
    if not cv2.imwrite(str(path), sheet, quality):
        raise DataError(f"--sheet: {path} could not be written; check permissions and free space")
