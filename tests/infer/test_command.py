"""``python -m amt.infer``: what it writes, what it says, and that a mistake costs one line and no file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from infer_files import small_disk, write_image, write_video

from amt.data.images import read_image
from amt.hand.shipped import shipped_hand
from amt.infer.__main__ import main

NUM_VERTICES = shipped_hand().num_vertices
LENS = ["--intrinsics", "310,305,158,121"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_image_becomes_a_picture_and_a_record(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(checkpoint), str(picture), *LENS, "--box", "180,110,120", "--object", "mug", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in ("hand.png", "predictions.jsonl"))
    assert "frames/s" in printed
    assert read_image(out / "hand.png")[0].shape == (480 + 44, 2 * 480 + 4, 3)
    (record,) = lines(out / "predictions.jsonl")
    shapes = {
        "joints_m": (21, 3), "joints_px": (21, 2), "intrinsics_px": (3, 3), "box_px": (3,), "mano_pose_rad": (48,),
        "mano_betas": (10,), "mano_translation_m": (3,), "hand_contact": (NUM_VERTICES,),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no object is named: hands alone are answered; --object says what is held"),
        (
            ["--object", "mug"],
            "025_mug: nothing is known of its colours, so that its rotation is a guess; --models FOLDER",
        ),
    ],
)
def test_what_is_not_known_of_the_object_is_said(checkpoint, picture, words, said, tmp_path, capsys):
    arguments = [str(checkpoint), str(picture), *LENS, "--box", "180,110,120", "--no-draw", *words]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert said in capsys.readouterr().err


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
        (["--fov", "0"], "--fov: expected 0.5 to 150"),
        (["--fov", "175"], "--fov: expected 0.5 to 150"),
        ([*LENS, "--box", "1,2"], "--box: expected cx,cy,side"),
        ([*LENS, "--box", "1,2,-3"], "--box: the side must be above 0"),
        ([*LENS, "--batch", "0"], "--batch: expected at least 1"),
        ([*LENS, "--side", "both"], "--side: invalid choice"),
        ([*LENS, "--object", "teapot"], "object: 'teapot' is neither a mesh file nor a YCB object"),
        ([*LENS, "--mano", "/nowhere"], "MANO_RIGHT.pkl: no such file"),
        ([*LENS, "--device", "toaster"], "--device must be auto, cpu, cuda or cuda:N; got 'toaster'"),
        ([*LENS, "--device", "meta"], "--device must be auto, cpu, cuda or cuda:N; got 'meta'"),
        ([*LENS, "--box", "-inf,1,2"], "--box: expected cx,cy,side in px, got '-inf,1,2'"),
        ([*LENS, ""], "one of the words is empty"),
        ([*LENS, "--models", "/nowhere"], "--models /nowhere: no such folder"),
        ([*LENS, "--video", "0"], "--video: expected a rate above 0"),
        ([*LENS, "infer.max_spread=2"], "infer.max_spread must be above 0 and at most 1; got 2.0"),
        (
            [*LENS, "infer.precision=int4"],
            "infer.precision must be one of auto, float32, bf16, fp8, te, torchao; got 'int4'",
        ),
        (
            [*LENS, "infer.blocks=fast"],
            "infer.blocks must be one of auto, stock, fused, fused_gelu, fused_tanh, fused_cutlass; got 'fast'",
        ),
        (
            [*LENS, "infer.foo=1"],
            "infer.foo: no such key; there are max_spread, locator, mediapipe, smooth, fit, threads, precision, engine, blocks",
        ),
        ([*LENS, "train.lr=1"], "train is a section of amt.train"),
        ([*LENS, "data.root=/tmp"], "data.root has no effect in amt.infer"),
        ([*LENS, "model.hand=/nowhere.pkl"], "model.hand=/nowhere.pkl: no such file"),
        ([*LENS, "data.mano=/nowhere"], "data.mano=/nowhere: no such folder"),
        ([*LENS, "foo.bar=1"], "foo"),
        (
            ["--intrinsics", "0.94,1.25,0.5,0.47"],
            "fx 0.94 px over a picture of 320 x 240 px is a field of view of 179.3 degrees",
        ),
        (["--intrinsics", "310,305,5000,121"], "cx 5000 px puts the picture of 320 x 240 px up to 86.5 degrees"),
        (["--intrinsics", "310,305,158,-4000"], "cy -4000 px puts the picture of 320 x 240 px up to 85.9 degrees"),
        (
            ["--intrinsics", "1e9,1e9,158,121"],
            "fx 1e+09 px over a picture of 320 x 240 px is a field of view of 1.833e-05 degrees",
        ),
        (["--intrinsics", "310,3000,158,121"], "pixels 9.7 times as long as wide"),
        (["--intrinsics", "nan,305,158,121"], "--intrinsics: expected fx,fy,cx,cy in px, got 'nan,305,158,121'"),
        ([*LENS, "--box", "180,110,0.5"], "box: a side of 0.5 px shows no hand; at least 8 px were expected"),
        ([*LENS, "--box", "180,110,1000000"], "box: a side of 1e+06 px is too large for a picture of 320 x 240 px"),
        ([*LENS, "--box", "2000,110,120"], "box: the square of 120 px around (2000, 110) lies outside the picture"),
        ([*LENS, "--box", "-200,-100,100"], "box: the square of 100 px around (-200, -100) lies outside the picture"),
        ([*LENS, "--object", "box:nanx0.1x0.1"], "object: expected three sides of 0.001 to 1 m"),
        (["--intrinsics", "nowhere.yml"], "nowhere.yml: cannot be read"),
        ([*LENS, "--distortion", "0.1,0.2"], "distortion: expected k1, k2, p1, p2"),
        ([*LENS, "--every", "0"], "--every: expected at least 1, got 0"),
        ([*LENS, "infer.engine=tensorrt"], "infer.engine must be one of auto, eager, trace, compile; got 'tensorrt'"),
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
    folder = tmp_path / "ck"
    if missing != "folder":
        shutil.copytree(checkpoint, folder)
        (folder / missing).unlink()
    assert main([str(folder), str(picture), *LENS, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"amt.infer: {folder}")
    assert said.count("\n") == 1


def test_a_box_may_begin_with_a_minus(checkpoint, picture, tmp_path):
    for words in (["--box", "-10,20,100"], ["--box=-10,20,100"]):
        out = tmp_path / words[0].replace("=", "")
        assert main([str(checkpoint), str(picture), *LENS, *words, "--no-draw", "--out", str(out)]) == 0
        assert lines(out / "predictions.jsonl")[0]["box_px"] == [-10, 20, 100]


def test_words_and_options_stand_in_any_order(checkpoint, picture, tmp_path):
    out = tmp_path / "out"
    words = ["infer.max_spread=1", str(checkpoint), *LENS, "kernels.use=reference", str(picture), "infer.threads=1"]
    assert main([*words, "--no-draw", "--out", str(out)]) == 0
    assert len(lines(out / "predictions.jsonl")) == 1


def test_fp8_says_which_layers_and_moves_joints_a_little(checkpoint, picture, tmp_path, capsys):
    joints = {}
    for precision in ("float32", "fp8"):
        out = tmp_path / precision
        words = [str(checkpoint), str(picture), *LENS, "--box", "160,120,120", f"infer.precision={precision}"]
        assert main([*words, "--no-draw", "--out", str(out)]) == 0
        joints[precision] = np.array(lines(out / "predictions.jsonl")[0]["joints_m"])
        assert ("infer.precision=fp8: FP8 products in" in capsys.readouterr().err) == (precision == "fp8")
    assert 0 < np.abs(joints["fp8"] - joints["float32"]).max() < 0.05


def test_convolutions_are_narrow_where_the_processor_has_bfloat16(checkpoint, picture, tmp_path, monkeypatch):
    joints = {}
    for slow in (True, False):
        monkeypatch.setattr("amt.model.lean.bfloat16_is_slow", lambda device, slow=slow: slow)
        for precision in ("auto", "float32"):
            out = tmp_path / f"{precision}-{slow}"
            words = [str(checkpoint), str(picture), *LENS, "--box", "160,120,120", f"infer.precision={precision}"]
            assert main([*words, "--no-draw", "--out", str(out)]) == 0
            joints[precision, slow] = np.array(lines(out / "predictions.jsonl")[0]["joints_m"])
    exact = joints["float32", False]
    assert np.array_equal(joints["float32", True], exact)
    assert np.array_equal(joints["auto", True], exact)
    assert 0 < np.abs(joints["auto", False] - exact).max() < 0.01


def test_mano_can_be_named_in_two_ways_that_agree(checkpoint, picture, tmp_path, capsys):
    (tmp_path / "mano").mkdir()
    (tmp_path / "mano" / "MANO_RIGHT.pkl").write_text("")
    arguments = [str(checkpoint), str(picture), *LENS, f"data.mano={tmp_path / 'mano'}", "--mano", "/elsewhere"]
    assert main(arguments) == 2
    assert "--mano /elsewhere contradicts data.mano=" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04cos\nsystem\n.", b"(dp0\n."])
def test_a_bad_mano_file_is_one_line(checkpoint, picture, content, tmp_path, capsys):
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(content)
    arguments = [str(checkpoint), str(picture), *LENS, f"model.hand={tmp_path / 'MANO_RIGHT.pkl'}"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "MANO_RIGHT.pkl" in said


def test_a_full_disk_is_one_line_and_keeps_what_is_done(checkpoint, photo, tmp_path, capsys):
    folder, out = tmp_path / "many", tmp_path / "out"
    for i in range(6):
        write_image(folder / f"{i}.jpg", photo)
    arguments = [str(checkpoint), str(folder), *LENS, "--box", "180,110,120", "--no-draw", "--batch", "1"]
    with small_disk(40_000):
        assert main([*arguments, "--out", str(out)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("amt.infer")]
    assert len(said) == 1
    assert "predictions.jsonl: cannot be written" in said[0]
    assert 0 < len(lines(out / "predictions.jsonl")) < 6


def test_an_empty_name_for_the_results_is_refused(checkpoint, picture, capsys):
    assert main([str(checkpoint), str(picture), *LENS, "--out", ""]) == 2
    assert "--out is empty (is its variable set?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"crop": {"num_points": "many"}}, "data.crop"),
        ({"crop": {"num_points": 0}}, "data.crop"),
        ([1], "section"),
        ({"crop": 3}, "section"),
    ],
)
def test_a_garbled_record_of_the_training_is_one_line(checkpoint, picture, data, message, tmp_path, capsys):
    folder = tmp_path / "ck"
    shutil.copytree(checkpoint, folder)
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"data": data}))
    assert main([str(folder), str(picture), *LENS, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"amt.infer: {folder / 'config.json'}")
    assert message in said
    assert said.count("\n") == 1


def test_weights_that_are_not_finite_are_refused(checkpoint, picture, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "ck"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights["refinement.w1"][:] = float("nan")
    save_file(weights, folder / "model.safetensors")
    assert main([str(folder), str(picture), *LENS, "--out", str(tmp_path / "out")]) == 2
    assert "model.safetensors: refinement.w1 holds numbers that are not finite" in capsys.readouterr().err


def test_one_broken_image_of_many_is_told_and_the_others_done(checkpoint, bad, photo, tmp_path, capsys):
    folder = tmp_path / "many"
    for name in ("a.jpg", "c.jpg"):
        write_image(folder / name, photo)
    os.replace(bad["cut.jpg"], folder / "b.jpg")
    out = tmp_path / "out"
    assert main([str(checkpoint), str(folder), *LENS, "--no-draw", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'b.jpg'}: the picture breaks off" in said
    assert "1 of 3 image(s) could not be used" in said
    assert [Path(r["image"]).name for r in lines(out / "predictions.jsonl")] == ["a.jpg", "c.jpg"]


def test_a_broken_frame_of_a_folder_that_is_a_video_is_skipped(checkpoint, bad, photo, tmp_path, capsys):
    folder = tmp_path / "many"
    for name in ("a.jpg", "c.jpg"):
        write_image(folder / name, photo)
    os.replace(bad["cut.jpg"], folder / "b.jpg")
    out = tmp_path / "out"
    assert main([str(checkpoint), str(folder), *LENS, "--video", "10", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'b.jpg'}: the picture breaks off" in said
    assert "1 of 3 image(s) could not be used" in said
    assert [(r["frame"], r["time_s"]) for r in lines(out / "predictions.jsonl")] == [(0, 0), (2, 0.2)]
    capture, ends = cv2.VideoCapture(str(out / "overlay.mp4")), []
    while capture.grab():
        ends.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    assert ends[-1] == pytest.approx(200, abs=1)  # the first frame stands until the third


def test_a_fault_of_many_pictures_is_counted(checkpoint, photo, tmp_path, capsys):
    folder, out = tmp_path / "many", tmp_path / "out"
    for i in range(8):
        write_image(folder / f"{i}.jpg", photo if i == 4 else photo[:, :100])
    arguments = [str(checkpoint), str(folder), *LENS, "--box", "180,110,120", "--no-draw"]
    assert main([*arguments, "--out", str(out)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("amt.infer")]
    assert [Path(line.split(": ")[1]).name for line in said[:3]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert said[3].startswith(
        "amt.infer: 4 more: intrinsics: cx 158 px" if "intrinsics" in said[3] else "amt.infer: 4 more: box: "
    )
    assert said[4] == "amt.infer: 7 of 8 image(s) could not be used (named above)"
    assert [Path(r["image"]).name for r in lines(out / "predictions.jsonl")] == ["4.jpg"]


def test_what_the_reader_had_to_choose_is_told_once_and_recorded(checkpoint, photo, tmp_path, capsys):
    from PIL import Image

    frames = [Image.fromarray(np.roll(photo, 9 * i, 1)) for i in range(3)]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    cv2.imwrite(str(tmp_path / "c.png"), photo[..., 0].astype(np.uint16) * 4)
    out = tmp_path / "out"
    arguments = [str(checkpoint), str(tmp_path), *LENS, "--box", "180,110,120", "--no-draw"]
    assert main([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert said.count("the file holds 3 pictures; the first is taken") == 2  # the first file, and the count
    assert f"{tmp_path / 'a.gif'}: the file holds 3 pictures" in said
    records = lines(out / "predictions.jsonl")
    assert records[0]["notes"] == ["the file holds 3 pictures; the first is taken"]
    assert any("scaled from 10 bits" in note for note in records[2]["notes"])
    assert any("grey" in note for note in records[2]["notes"])


def test_a_picture_without_a_hand_says_so(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(checkpoint), str(picture), *LENS, "infer.max_spread=0.0001"]  # as if nothing were sure enough
    assert main([*arguments, "--out", str(out)]) == 0
    assert f"{picture}: no hand found (joints spread over" in capsys.readouterr().err
    (record,) = lines(out / "predictions.jsonl")
    assert record["hand_found"] is False
    assert record["joints_m"] is record["mano_pose_rad"] is record["object"] is None
    assert record["doubt_nats"] > 0
    assert (out / "hand.png").is_file()


def test_help_and_wrong_words_come_before_pytorch(checkpoint, tmp_path):
    """Neither loads PyTorch, and so takes a tenth of its time."""
    code = """
import sys
from amt.infer.__main__ import main

try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(status, sorted({"torch", "cv2", "hydra"} & set(sys.modules)))
"""
    for words, status in ((["--help"], 0), (["/nowhere", "x.jpg"], 2), ([str(checkpoint), "/nowhere.jpg"], 2)):
        ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
        assert ran.stdout.splitlines()[-1] == f"{status} []", ran.stderr


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
