"""Which finder of hands a predictor has: ``infer.locator``, or ``--locator``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from amt.locate import Finder, open_locator

USABLE = 0.9  # recall on validation frames; a locator that finds less is not better than a search by windows


def choose_finder(
    name: str,
    folder: str | Path,
    record: Mapping[str, Any],
    box_scale: float,
    device: torch.device | str,
    mediapipe: str | Path | None = None,
) -> tuple[Finder | None, str]:
    """The finder of that name. None where windows are searched: by name, or because the checkpoint has no locator of use.

    Args:
        name: "model", "mediapipe" or "window".
        folder: the checkpoint's; ``record``: its config.json.
        mediapipe: MediaPipe's wheel, or a folder with its .tflite files.

    Returns:
        The finder, and the line that says why windows stand in for the model's locator; "" where they do not.

    Raises:
        CheckpointError, MediaPipeError: what was asked for is broken or cannot be had.
    """
    if name == "window":
        return None, ""
    finder = open_locator(name, folder, box_scale=box_scale, device=device, mediapipe=mediapipe)
    if name != "model":
        return finder, ""
    section = record.get("locator")
    found = section.get("recall") if isinstance(section, Mapping) else None
    if finder is None:
        why = "holds no locator"
    elif isinstance(found, (int, float)) and found < USABLE:
        why = f"holds a locator that found {100 * found:.0f} % of the validation hands, {100 * USABLE:.0f} are needed"
    else:
        return finder, ""
    return None, (
        f"{folder}: {why}: one hand a picture is searched by windows, which is slow and often wrong; "
        f"python -m amt.train.locator {folder} trains one, --locator mediapipe takes MediaPipe's"
    )
