"""A whole picture in a fixed size: shrunk or enlarged with its shape kept, at the top left, the rest grey."""

from __future__ import annotations

import numpy as np

GREY = 114


def letterbox(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """uint8 [height, width, 3], and its px per px of ``image`` (uint8 [H, W, 3]).

    A point x of the letterbox lies at (x + 0.5) / scale - 0.5 in the picture.
    """
    import cv2

    scale = min(width / image.shape[1], height / image.shape[0])
    across, down = (max(1, round(scale * n)) for n in (image.shape[1], image.shape[0]))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (min(across, width), min(down, height)), interpolation=method)
    if small.shape[:2] == (height, width):
        return small, scale
    boxed = np.full((height, width, 3), GREY, np.uint8)
    boxed[: small.shape[0], : small.shape[1]] = small
    return boxed, scale


def boxes_in_picture(boxes: np.ndarray, scale: float) -> np.ndarray:
    """float64 [N, 4]: boxes (left, top, right, bottom) of a letterbox, in px of the picture that it was made from."""
    return (np.asarray(boxes, np.float64).reshape(-1, 4) + 0.5) / scale - 0.5
