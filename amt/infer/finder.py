"""Which finder of hands a predictor has: ``infer.locator``, or ``--locator``."""

from __future__ import annotations

from pathlib import Path

import torch

from amt.infer.hands import UNSURE
from amt.locate import Finder, open_locator


def choose_finder(
    name: str,
    folder: str | Path,
    box_scale: float,
    device: torch.device | str,
    mediapipe: str | Path | None = None,
) -> Finder | None:
    """The finder of that name; None where windows are searched.

    Args:
        name: "model", "mediapipe" or "window".
        folder: the checkpoint's.
        mediapipe: MediaPipe's wheel, or a folder with its .tflite files.

    Raises:
        CheckpointError, MediaPipeError: what was asked for is broken or cannot be had.
    """
    if name == "window":
        return None
    return open_locator(name, folder, box_scale=box_scale, device=device, mediapipe=mediapipe, fast=True, unsure=UNSURE)
