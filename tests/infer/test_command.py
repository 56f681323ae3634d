"""``python -m amt.infer``: what it writes, what it says, and that a mistake costs one line and no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from infer_files import write_image, write_video

from amt.data.errors import BrokenFrame
from amt.infer.__main__ import main
from amt.infer.inputs import read_image

LENS = ["--intrinsics", "310,305,158,121"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    """A rendered set: two subjects, one sequence, two frames, eight cameras."""
    pytest.importorskip("embreex")
    from amt.data.synthetic.write import SetConfig, write_set

    config = SetConfig(sequences=1, frames=2, subjects=2, seed=3)
    return Path(write_set(tmp_path_factory.mktemp("set") / "set", config, workers=1, progress=False))


def test_an_image_becomes_a_picture_and_a_record(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(checkpoint), str(picture), *LENS, "--box", "180,110,120", "--object", "mug", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in ("hand.png", "predictions.jsonl"))
    assert "frames/s" in printed
    assert read_image(out / "hand.png").shape == (480 + 44, 2 * 480 + 4, 3)
    (record,) = lines(out / "predictions.jsonl")
    shapes = {
        "joints_m": (21, 3), "joints_px": (21, 2), "intrinsics_px": (3, 3), "box_px": (3,), "mano_pose_rad": (48,),
        "mano_betas": (10,), "mano_translation_m": (3,), "hand_contact": (778,),
    }  # fmt: skip
    for key, shape in shapes.items():
        assert np.shape(record[key]) == shape, key
    held = record["object"]
    assert (held["class_id"], np.shape(held["rotation"]), np.shape(held["translation_m"])) == (14, (3, 3), (3,))
    assert np.shape(held["contact"]) == (64,)
    said = {
        key: record[key] for key in ("image", "frame", "time_s", "side", "box_source", "intrinsics_source", "errors")
    }
    assert said == {
        "image": str(picture), "frame": None, "time_s": None, "side": "right", "box_source": "given",
        "intrinsics_source": "given", "errors": None,
    }  # fmt: skip
    np.testing.assert_allclose(record["intrinsics_px"], [[310, 0, 158], [0, 305, 121], [0, 0, 1]])
    pixels = np.array(record["joints_m"]) @ np.array(record["intrinsics_px"]).T
    np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], record["joints_px"], atol=0.02)


def test_numbers_only(checkpoint, picture, tmp_path):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(picture), *LENS, "--no-draw", "--side", "left", "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["predictions.jsonl", "written-by-amt-infer.jsonl"]
    (record,) = lines(out / "predictions.jsonl")
    assert (record["side"], record["object"], record["box_source"]) == ("left", None, "found")


def test_a_guessed_camera_is_said(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(picture), "--fov", "90", "--no-draw", "--out", str(out)]) == 0
    assert "only as good as that guess" in capsys.readouterr().err
    (record,) = lines(out / "predictions.jsonl")
    assert record["intrinsics_source"] == "fov"
    np.testing.assert_allclose(record["intrinsics_px"], [[160, 0, 159.5], [0, 160, 119.5], [0, 0, 1]])


def test_a_video_becomes_a_video(checkpoint, photo, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4", [np.roll(photo, 3 * i, 1) for i in range(4)])
    out = tmp_path / "out"
    assert main([str(checkpoint), str(video), *LENS, "--out", str(out)]) == 0
    records = lines(out / "predictions.jsonl")
    assert [r["frame"] for r in records] == [0, 1, 2, 3]
    assert records[3]["time_s"] == pytest.approx(0.25)
    assert "frame" in capsys.readouterr().err  # the progress bar
    capture = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    frames = [capture.read()[1] for _ in range(4)]
    assert all(frame.shape == (240, 320 + 240, 3) for frame in frames)
    assert not capture.read()[0]


def test_a_set_brings_camera_side_object_box_and_truth(checkpoint, small_set, tmp_path, capsys):
    folder = sorted(small_set.glob("2020*/*/836212060125"))[1]
    images = sorted(folder.glob("color_*.jpg"))
    out = tmp_path / "out"
    assert main([str(checkpoint), str(folder), "--out", str(out)]) == 0
    assert "a data set; what is not given" in capsys.readouterr().err
    records = lines(out / "predictions.jsonl")
    assert [r["image"] for r in records] == [str(p) for p in images]
    labels = np.load(images[1].with_name("labels_000001.npz"))
    joints, pixels = labels["joint_3d"][0], labels["joint_2d"][0]
    record = records[1]
    assert (record["box_source"], record["intrinsics_source"]) == ("data set", "data set")
    expected = np.linalg.norm(np.array(record["joints_m"]) - joints, axis=1).mean() * 1000
    assert record["errors"]["absolute_mm"] == pytest.approx(expected, abs=0.01)
    assert record["errors"]["object_adds_mm"] > 0
    low, high = pixels.min(0), pixels.max(0)
    np.testing.assert_allclose(record["box_px"], [*(low + high) / 2, 1.5 * (high - low).max()], atol=0.05)
    assert record["object"]["class_id"] > 0
    assert read_image(out / "color_000001.png").shape == (480 + 44, 3 * 480 + 8, 3)
    assert read_image(out / "overview.png").shape[0] == 2 * (480 + 44) + 16

    found = tmp_path / "found"
    assert main([str(checkpoint), str(images[1]), "--box", "auto", "--no-draw", "--out", str(found)]) == 0
    assert lines(found / "predictions.jsonl")[0]["box_source"] == "found"


def test_the_truth_of_a_set_is_the_annotated_hand(small_set):
    from amt.infer.known import KnownSets

    sets = KnownSets(64)
    for image in sorted(small_set.glob("2020*/*/8*/color_000001.jpg"))[::3]:
        known = sets.find(image)
        labels = np.load(image.with_name("labels_000001.npz"))
        np.testing.assert_allclose(known.truth.joints, labels["joint_3d"][0], atol=1e-6)
        gap = np.linalg.norm(known.truth.vertices[:, None] - known.truth.joints[None], axis=2).min(0)
        assert gap.max() < 0.03  # the mesh surrounds the joints
        assert known.truth.side == known.side
        assert known.truth.hand_contact.shape == (778,)
        assert known.truth.object_contact.shape == (64,)
    assert sets.find(small_set / "calibration" / "x.jpg") is None
    with pytest.raises(BrokenFrame, match=r"labels_000009\.npz: is missing"):
        sets.find(image.parent / "color_000009.jpg")


@pytest.fixture
def bad(tmp_path, photo) -> dict[str, Path]:
    """Files and folders that cannot be used."""
    whole = write_image(tmp_path / "whole.jpg", photo)
    paths = {name: tmp_path / name for name in ("cut.jpg", "text.jpg", "empty", "text.mp4", "missing.jpg")}
    paths["cut.jpg"].write_bytes(whole.read_bytes()[:3000])
    paths["text.jpg"].write_text("no image")
    paths["text.mp4"].write_text("no video")
    paths["empty"].mkdir()
    return paths


@pytest.mark.parametrize("name", ["cut.jpg", "text.jpg", "empty", "text.mp4", "missing.jpg"])
def test_an_input_that_cannot_be_used_costs_one_line(checkpoint, bad, name, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(bad[name]), *LENS, "--out", str(out)]) == 2
    said = capsys.readouterr()
    (line,) = [part for part in said.err.splitlines() if not part.startswith(("[mov", "\r"))]
    assert line.startswith(f"amt.infer: {bad[name]}: ")
    assert ";" in line  # what is wrong; what to do
    assert said.out == ""
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--intrinsics", "0,305,158,121"], "--intrinsics: focal lengths must be above 0 px, got fx 0"),
        (["--intrinsics", "310,305"], "--intrinsics: expected fx,fy,cx,cy"),
        ([*LENS, "--fov", "60"], "--fov: stands in for --intrinsics"),
        (["--fov", "0"], "--fov: expected 1 to 170"),
        ([*LENS, "--box", "1,2"], "--box: expected cx,cy,side"),
        ([*LENS, "--box", "1,2,-3"], "--box: the side must be above 0"),
        ([*LENS, "--batch", "0"], "--batch: expected at least 1"),
        ([*LENS, "--side", "both"], "--side: invalid choice"),
        ([*LENS, "--object", "teapot"], "teapot: neither a mesh file nor a YCB object"),
        ([*LENS, "--mano", "/nowhere"], "MANO_RIGHT.pkl: no such file"),
        ([*LENS, "--device", "toaster"], "--device toaster: cannot be used"),
        ([], "its camera is not known; give --intrinsics fx,fy,cx,cy, or --fov"),
    ],
)
def test_a_wrong_option_costs_one_line(checkpoint, picture, arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(picture), *arguments, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "folder"])
def test_a_checkpoint_without_its_weights_costs_one_line(checkpoint, picture, missing, tmp_path, capsys):
    import shutil

    folder = tmp_path / "ck"
    if missing != "folder":
        shutil.copytree(checkpoint, folder)
        (folder / missing).unlink()
    assert main([str(folder), str(picture), *LENS, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"amt.infer: {folder}")
    assert said.count("\n") == 1


def test_one_broken_image_of_many_is_told_and_the_others_done(checkpoint, bad, photo, tmp_path, capsys):
    folder = tmp_path / "many"
    for name in ("a.jpg", "c.jpg"):
        write_image(folder / name, photo)
    os.replace(bad["cut.jpg"], folder / "b.jpg")
    out = tmp_path / "out"
    assert main([str(checkpoint), str(folder), *LENS, "--no-draw", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'b.jpg'}: the image breaks off" in said
    assert "1 of 3 image(s) could not be used" in said
    assert [Path(r["image"]).name for r in lines(out / "predictions.jsonl")] == ["a.jpg", "c.jpg"]


def test_foreign_files_survive_and_own_ones_are_replaced(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.jsonl").write_text("precious")
    arguments = [str(checkpoint), str(picture), *LENS, "--no-draw", "--out", str(out)]
    assert main(arguments) == 2
    assert "was not written by amt.infer; choose another --out or add --overwrite" in capsys.readouterr().err
    assert (out / "predictions.jsonl").read_text() == "precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert main(arguments) == 0  # its own by now
    assert len(lines(out / "predictions.jsonl")) == 1


def test_the_default_folder_is_named_after_the_input(checkpoint, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(checkpoint), str(picture), *LENS, "--no-draw"]) == 0
    assert (tmp_path / "outputs" / "infer" / "hand" / "predictions.jsonl").is_file()


def test_as_a_program_a_broken_video_is_one_line(checkpoint, bad):
    command = [sys.executable, "-m", "amt.infer", str(checkpoint), str(bad["text.mp4"]), *LENS]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"amt.infer: {bad['text.mp4']}: not a video")
