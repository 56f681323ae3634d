"""Readers and batches that are made, for evaluations without a data set."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from amt.data.sequences import SequenceInfo

SYMMETRIES = {kind: torch.eye(3, dtype=torch.float64)[None] for kind in range(22)}
SMALL = {"decoder_depth": 1, "backbone": {"depth": 1}, "visibility": True, "joint_scale": True, "refine_steps": 3}


def made_reader():
    """Knows of each index what a reader of DexYCB's layout knows: four frames a camera."""
    return SimpleNamespace(
        record={},
        objects=SimpleNamespace(names={3: "004_sugar_box"}, symmetry=lambda kind: ()),
        locate=lambda index: (
            SequenceInfo(Path("/20200709"), 7, 0, 4, (), (), 0, "right", "", ""),
            index // 4,
            index % 4,
        ),
    )


def reader_with_pictures():
    reader = made_reader()
    picture = np.full((480, 640, 3), 90, np.uint8)
    reader.frame_at = lambda index: type("Frame", (), {"image": lambda self: picture})()
    return reader


def with_visibility(batch, known=True):
    visible = torch.arange(21) % 3 > 0
    targets = dataclasses.replace(
        batch.targets,
        joint_visible=visible.expand(len(batch.index), 21).clone(),
        visibility_valid=torch.full((len(batch.index),), known),
    )
    return dataclasses.replace(batch, targets=targets)
