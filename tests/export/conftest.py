"""A checkpoint of a small untrained model, and the program that is traced of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from amt.export.crops import made_crops, rows, tensors
from amt.export.program import Flat, trace
from amt.model import AMT, ModelConfig, save_checkpoint

SMALL = {"refine_steps": 1, "decoder_depth": 1, "crop_size": 48, "map_size": 12}
POINTS = 32
METRICS = {"data": "synthetic", "split": "s1", "subset": "test", "frames": 96, "wrist_aligned_mpjpe_mm": 41.25}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    save_checkpoint(folder, AMT(ModelConfig(**SMALL)), data={"crop": {"num_points": POINTS, "box_scale": 1.5}}, steps=7)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


@pytest.fixture(scope="session")
def crops():
    """Five of them: right and left hands in turn."""
    return made_crops(5, SMALL["crop_size"], POINTS, look=True)


@pytest.fixture(scope="session")
def model(checkpoint) -> AMT:
    return AMT.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def expected(model, crops):
    """The checkpoint's own outputs for ``crops``, with the kernels of this machine."""
    with torch.inference_mode():
        return {name: value.numpy() for name, value in Flat(model)(**tensors(crops)).items()}


@pytest.fixture(scope="session")
def program(model, crops) -> torch.export.ExportedProgram:
    """Of two images. Tracing takes most of the time of these tests: all share it."""
    return trace(model, tensors(rows(crops, slice(2))))


@pytest.fixture(scope="session")
def forward(program):
    """The program as a function."""
    return program.module()


@pytest.fixture
def traced(program, forward, monkeypatch):
    """``python -m amt.export`` takes the traced program; the file of torch-export is opened as what it was written from."""
    import amt.export.opened
    import amt.export.run

    monkeypatch.setattr(amt.export.run, "trace", lambda *_, **__: program)
    monkeypatch.setitem(
        amt.export.opened._RUNNERS, "torch-export", amt.export.opened._torch_runner(lambda folder: forward)
    )
