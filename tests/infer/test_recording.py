"""A recording for the Rerun viewer: every hand of every picture under its number, and none that has gone."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from infer_files import write_image
from test_hands import HANDS, Fixed

from amt.draw.recording import Recording
from amt.infer.__main__ import main

# two hands, then one, then none, then the second one anew
NUMBERS = ((3, 5), (3,), (None,), (5,))
ROWS = {  # entity: rows of pictures in which it is there
    "hands/3/joints": 2,
    "hands/3/bones": 2,
    "hands/3/mesh": 2,
    "hands/3/object": 2,
    "hands/5/joints": 2,
    "hands/5/bones": 2,
    "hands/5/mesh": 2,
    "hands/5/object": 2,
    "truth/joints": 1,
    "truth/bones": 1,
    "truth/mesh": 1,
    "truth/object": 1,
}
CLEARED = {"hands/3": 1, "hands/5": 1, "truth": 1}
IN_PICTURE = {f"camera/image/{name}": ROWS[f"{name}/joints"] + CLEARED[name] for name in CLEARED}
CAMERA = {"camera": 4, "camera/image": 4}


def add_all(recording: Recording, photo, result) -> None:
    for k, numbers in enumerate(NUMBERS):
        scenes = [replace(result, hand_found=number is not None) for number in numbers]
        recording.add(photo, scenes, numbers, result if k == 0 else None, picture=k, time_s=k / 10)


def test_rerun_reads_every_hand(photo, result, tmp_path):
    reader = pytest.importorskip("rerun.chunk").RrdReader
    with Recording(tmp_path / "r.rrd") as recording:
        add_all(recording, photo, result)
    rows = Counter()
    for chunk in reader(tmp_path / "r.rrd").stream():
        rows[chunk.entity_path.strip("/")] += chunk.num_rows
    expected = ROWS | CLEARED | IN_PICTURE | CAMERA
    assert {name: rows[name] for name in expected} == expected
    assert set(rows) - set(expected) <= {"", "__properties"}


def test_every_hand_is_logged_without_the_package_too(photo, result, tmp_path, monkeypatch):
    """The same calls into a stand-in for the package, which an ordinary installation lacks."""
    rows = Counter()

    class Stream:
        def __init__(self, name):
            pass

        def __getattr__(self, name):
            return lambda *_, **__: None

        def log(self, entity, content, static=False):
            rows[entity] += 1

    class Shown:
        def __init__(self, *_, **__):
            pass

        def compress(self, jpeg_quality):
            return self

    shapes = ("Pinhole", "Image", "Clear", "Points3D", "LineStrips3D", "LineStrips2D", "Mesh3D")
    layout = SimpleNamespace(**dict.fromkeys(("Blueprint", "Horizontal", "Spatial3DView", "Spatial2DView"), Shown))
    views = SimpleNamespace(RDF=None)
    rerun = SimpleNamespace(
        RecordingStream=Stream, ViewCoordinates=views, blueprint=layout, **dict.fromkeys(shapes, Shown)
    )
    monkeypatch.setitem(sys.modules, "rerun", rerun)
    monkeypatch.setitem(sys.modules, "rerun.blueprint", layout)
    with Recording(tmp_path / "r.rrd") as recording:
        add_all(recording, photo, result)
    del rows["/"]
    assert rows == ROWS | CLEARED | IN_PICTURE | CAMERA


def test_the_command_records_both_hands(checkpoint, photo, tmp_path, monkeypatch):
    reader = pytest.importorskip("rerun.chunk").RrdReader
    monkeypatch.setattr("amt.infer.predictor.choose_finder", lambda *_: Fixed(HANDS))
    for k in range(2):
        write_image(tmp_path / f"{k}.png", photo)
    words = [str(checkpoint), *(str(tmp_path / f"{k}.png") for k in range(2)), "--fov", "60", "--no-draw"]
    assert main([*words, "--out", str(tmp_path / "out"), "--csv", "--rerun", str(tmp_path / "r.rrd")]) == 0
    entities = {chunk.entity_path for chunk in reader(tmp_path / "r.rrd").stream()}
    assert {"/hands/0/mesh", "/hands/1/mesh", "/camera/image/hands/1"} <= entities
    table = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert table[0].split(",")[8] == "hand"
    assert len(table) == 1 + 4
