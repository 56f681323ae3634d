"""Pictures to put behind hand and object: from a folder, scikit-image's photographs, or made of soft coloured noise.

The renderer (``--backgrounds``) and training (``data.augment.backgrounds``) take the same words.
"""

from __future__ import annotations

import importlib.util
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
DEPTH_NAME = "aligned_depth"  # how a set's depth pictures are called, which are not to be looked at
PHOTOGRAPHS = "photographs"  # the word for those of scikit-image
# Files in scikit-image's wheel whose notes in skimage.data say CC0 or public domain, or "no known copyright restrictions" (the
# coins). Left out: pictures without a licence (motorcycle, moon, page, colorwheel), faces of people that one
# can recognise (astronaut, lfw), and those that show no scene (cells, retina, text, Hubble).
SCENES = ("camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "rocket.jpg")
SURFACES = ("brick.png", "coffee.png", "coins.png", "grass.png", "gravel.png")


def picture_files(source: str, argument: str, names: tuple[str, ...] = SCENES) -> list[Path]:
    """The pictures that ``source`` stands for: a folder, searched with all that is in it, or :data:`PHOTOGRAPHS`.

    Args:
        argument: what the user calls it, for messages.
        names: which of scikit-image's files are wanted.

    Raises:
        DataError: the folder holds no picture, or scikit-image is not installed.
    """
    if source == PHOTOGRAPHS:
        found = importlib.util.find_spec("skimage")
        if found is None or not found.submodule_search_locations:
            raise DataError(f"{argument}: {PHOTOGRAPHS} are scikit-image's; pip install scikit-image, or name a folder")
        return [Path(found.submodule_search_locations[0]) / "data" / name for name in names]
    found = (p for p in Path(source).expanduser().rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    paths = sorted(p for p in found if not p.name.startswith(DEPTH_NAME))[:MOST]
    if not paths:
        raise DataError(f"{argument}: {source} holds no picture that can be read; name a folder of pictures")
    return paths


def read_backgrounds(folder: str | None, size: int) -> Tensor:
    """uint8 [N, size, size, 3]: the middle squares of what :func:`picture_files` names, or made ones for None.

    Raises:
        DataError: the folder holds no picture that can be read.
    """
    if folder is None:
        return torch.from_numpy(np.stack([_made(number, size) for number in range(BACKGROUNDS)]))
    paths = picture_files(folder, "data.augment.backgrounds")
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
