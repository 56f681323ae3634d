"""A contact sheet: one picture that shows twelve frames of a set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from amt.data.errors import DataError

COLUMNS, ROWS = 4, 3
TILE = (320, 240)  # px: width and height


def write_sheet(root: Path, path: Path) -> None:
    """Writes frames of evenly spaced sequences, each by another camera, to an image file. Raises DataError."""
    sequences = sorted(meta.parent for meta in root.glob("*/*/meta.yml"))
    tiles = []
    for k in range(COLUMNS * ROWS):
        pictures = sorted(sequences[k * len(sequences) // (COLUMNS * ROWS)].glob("*/color_*.jpg"))
        image = cv2.imread(str(pictures[(5 * k * len(pictures) // 8 + len(pictures) // 16) % len(pictures)]))
        tiles.append(cv2.resize(image, TILE, interpolation=cv2.INTER_AREA))
    sheet = np.vstack([np.hstack(tiles[row * COLUMNS : (row + 1) * COLUMNS]) for row in range(ROWS)])
    try:
        written = cv2.imwrite(str(path), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
    except cv2.error:
        written = False
    if not written:
        raise DataError(f"--sheet: {path} could not be written; name a .jpg or .png file in a folder that exists")
