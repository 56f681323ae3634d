"""Pictures to put behind hand and object: from a folder, or made of soft coloured noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from amt.data.draws import BACKGROUNDS
from amt.data.errors import DataError, ImageError
from amt.data.images import read_image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST = 1024  # pictures of a folder; 75 MB at 112 px


def read_backgrounds(folder: str | None, size: int) -> Tensor:
    """uint8 [N, size, size, 3]: the middle squares of a folder's pictures in sorted order, or made ones.

    Raises:
        DataError: the folder holds no picture that can be read.
    """
    if folder is None:
        return torch.from_numpy(np.stack([_made(number, size) for number in range(BACKGROUNDS)]))
    paths = sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in ENDINGS)[:MOST]
    pictures = []
    for path in paths:
        try:
            image, _ = read_image(path)
        except ImageError:
            continue
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = image[top : top + side, left : left + side]
        pictures.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
    if not pictures:
        raise DataError(
            f"data.augment.backgrounds: {folder} holds no picture that can be read; name a folder of pictures"
        )
    return torch.from_numpy(np.stack(pictures))


def _made(number: int, size: int) -> np.ndarray:
    """Noise whose amplitude falls with its frequency, as in photographs (about 1 / f)."""
    rng = np.random.default_rng([7, number])
    picture = np.full((size, size, 3), rng.uniform(40, 215, 3))
    cells = 2
    while cells < size:
        noise = rng.normal(0, 80 / cells, (cells, cells, 3)) + rng.normal(0, 80 / cells, (cells, cells, 1))
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
        cells *= 2
    return np.clip(picture, 0, 255).astype(np.uint8)
