"""Options of ``python -m amt.infer`` about cameras and about which pictures are taken, and what they write."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
from infer_files import write_image

from amt.infer.__main__ import main

LENS = ["--intrinsics", "310,305,158,121"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_camera_that_nobody_knows_is_assumed_and_said(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(picture), "--no-draw", "--box", "180,110,120", "--out", str(out)]) == 0
    assert "its camera is not known: 75 degrees over the diagonal are assumed" in capsys.readouterr().err
    (record,) = lines(out / "predictions.jsonl")
    assert (record["intrinsics_source"], record["intrinsics_assumed_deg"]) == ("assumed", 75)


def test_a_calibration_file_brings_camera_and_lens(checkpoint, picture, tmp_path):
    file = cv2.FileStorage(str(tmp_path / "c.yml"), cv2.FILE_STORAGE_WRITE)
    for name, value in (("image_width", 640), ("image_height", 480)):
        file.write(name, value)
    file.write("camera_matrix", np.array([[620.0, 0, 316.5], [0, 610, 242.5], [0, 0, 1]]))
    file.write("distortion_coefficients", np.array([[-0.3, 0.1, 0, 0, 0]]))
    file.release()
    out = tmp_path / "out"
    words = ["--intrinsics", str(tmp_path / "c.yml"), "--box", "180,110,120", "--out", str(out)]
    assert main([str(checkpoint), str(picture), *words]) == 0
    (record,) = lines(out / "predictions.jsonl")
    np.testing.assert_allclose(record["intrinsics_px"], [[310, 0, 158], [0, 305, 121], [0, 0, 1]])  # of half the size
    assert record["distortion"] == {"model": "brown", "coefficients": [-0.3, 0.1, 0, 0, 0]}
    assert main([str(checkpoint), str(picture), *words, "--distortion", "fisheye:0.1,0,0,0", "--overwrite"]) == 0
    assert lines(out / "predictions.jsonl")[0]["distortion"]["model"] == "fisheye"


def test_every_nth_image_is_taken(checkpoint, photo, tmp_path):
    for i in range(5):
        write_image(tmp_path / "many" / f"{i}.jpg", photo)
    arguments = [str(checkpoint), str(tmp_path / "many"), *LENS, "--box", "180,110,120", "--no-draw", "--every", "2"]
    assert main([*arguments, "--video", "10", "--csv", "--out", str(tmp_path / "out")]) == 0
    records = lines(tmp_path / "out" / "predictions.jsonl")
    assert [(r["frame"], r["time_s"]) for r in records] == [(0, 0), (2, 0.2), (4, 0.4)]
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["0", "2", "4"]
    for row, record in zip(rows, records):
        assert [float(row[f"index_tip_{axis}_m"]) for axis in "xyz"] == record["joints_m"][8]
        assert [float(row[f"wrist_{axis}_px"]) for axis in "xy"] == record["joints_px"][0]
        assert float(row["wrist_sigma_mm"]) == record["sigma_mm"][0]


def test_a_sequence_of_dexycb_is_an_input(checkpoint, small_set, tmp_path):
    sequence = next(small_set.glob("2020*/*"))
    assert main([str(checkpoint), str(sequence), "--no-draw", "--every", "5", "--out", str(tmp_path / "out")]) == 0
    records = lines(tmp_path / "out" / "predictions.jsonl")
    assert len(records) == 4  # of two frames from eight cameras
    assert len({Path(r["image"]).parent.name for r in records}) > 2
    assert {r["intrinsics_source"] for r in records} == {"data set"}


def test_a_recording_for_rerun_holds_hand_and_camera(checkpoint, picture, tmp_path, capsys):
    """Without the package the option is refused in one line."""
    file, out = tmp_path / "r.rrd", tmp_path / "out"
    words = [str(checkpoint), str(picture), *LENS, "--box", "180,110,120", "--no-draw", "--out", str(out)]
    status = main([*words, "--rerun", str(file)])
    said = capsys.readouterr().err
    if importlib.util.find_spec("rerun") is None:
        assert status == 2
        assert "--rerun: the package rerun-sdk is not installed; pip install amt[rerun]" in said
        return
    assert status == 0
    data = file.read_bytes()
    assert data.startswith(b"RRF2")
    assert main([*words, "--rerun", str(file)]) == 2
    assert f"--rerun: {file} exists; give another name" in capsys.readouterr().err
    assert main([*words, "--rerun", str(tmp_path / "r.txt")]) == 2
    assert "expected the name of an .rrd file" in capsys.readouterr().err
