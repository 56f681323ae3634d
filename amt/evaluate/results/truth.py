"""The labels that result files are scored against, read frame by frame without any picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from amt.data.errors import BrokenFrame, DataError
from amt.data.loader import open_reader
from amt.data.reader import Reader
from amt.data.set_folder import Frame


@dataclass(frozen=True)
class HandTruth:
    """The labelled hands of a subset."""

    index: np.ndarray  # int64 [N]: in the reader
    joints: np.ndarray  # float64 [N, 21, 3], mm
    left: np.ndarray  # bool [N]
    frames: int  # of the subset, those without a label too
    name: str  # such as "s0 test"


def subset(settings: dict[str, Any]) -> Reader:
    """The reader of the whole subset that a result file is about. Raises DataError."""
    reader = open_reader(settings["data"], settings["evaluate"].subset)
    if reader.limit is not None:
        raise DataError("data.limit: a result file is scored on the whole subset; leave data.limit out")
    return reader


def hand_truth(reader: Reader) -> HandTruth:
    """Raises DataError where a frame's labels cannot be read: an official evaluator would stop there, too."""
    found = [(frame.index, frame.joints, frame.sequence.side == "left") for frame in frames(reader) if frame.hand_valid]
    if not found:
        raise DataError(f"{reader.root}: no frame of {reader.split} {reader.subset} has a labelled hand")
    index, joints, left = zip(*found)
    # The toolkit multiplies float32 labels by 1000 before it makes them float64.
    millimetres = (np.stack(joints) * np.float32(1000)).astype(np.float64)
    return HandTruth(np.array(index), millimetres, np.array(left), len(reader), f"{reader.split} {reader.subset}")


def meshes(reader: Reader, chosen: np.ndarray) -> np.ndarray:
    """float32 [N, V, 3], m: the true hands of the frames with these indices."""
    found = []
    for frame in frames(reader, chosen):
        parts = (torch.from_numpy(x)[None] for x in (frame.pose, frame.betas, frame.translation))
        with torch.no_grad():
            found.append(reader.layer(frame.sequence.side)(*parts).vertices[0].numpy())
    return np.stack(found)


def frames(reader: Reader, chosen: np.ndarray | None = None) -> Iterator[Frame]:
    """The frames of a reader, or those with these indices, under a progress bar."""
    indices = range(len(reader)) if chosen is None else chosen.tolist()
    for index in tqdm(indices, desc="reading labels", unit="frame"):
        try:
            yield reader.frame_at(index)
        except BrokenFrame as error:
            raise DataError(f"{error}; a result file can only be scored where every label can be read") from error


def check_folder(root: Path | None) -> Path:
    """The set's folder. Raises DataError where none is named."""
    if root is None:
        raise DataError("data.root: name the folder of the set that the result file is about")
    return Path(root).expanduser()
