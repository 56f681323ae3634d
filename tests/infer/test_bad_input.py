"""Inputs that no camera should give: each costs one clear line or gives an empty result; nothing crashes, hangs or runs code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from infer_files import write_image, write_video
from PIL import Image

from amt.infer.__main__ import main
from amt.infer.checks import InputError
from amt.infer.inputs import MOST_PIXELS, Images
from amt.model.checkpoint import CheckpointError
from amt.model.loading import load_checkpoint

LENS = ["--intrinsics", "310,305,158,121"]
BOX = ["--box", "180,110,120"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(capsys) -> list[str]:
    """The program's own lines on stderr; a progress bar is none."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("amt.infer: ")]


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size, with hardly anything in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def test_a_video_of_no_bytes_is_one_line(checkpoint, tmp_path, capsys):
    (tmp_path / "v.mp4").write_bytes(b"")
    assert main([str(checkpoint), str(tmp_path / "v.mp4"), *LENS, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert "v.mp4: not a video that can be decoded; convert it" in line
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_a_video_that_ends_in_mid_frame_gives_what_is_whole(checkpoint, photo, tmp_path, capsys):
    """Matroska and AVI can be read up to where they break off."""
    frames = [np.roll(photo, 20 * i, 1) for i in range(12)]
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, photo.shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 45 // 100])
    out = tmp_path / "out"
    status = main([str(checkpoint), str(tmp_path / "cut.avi"), *LENS, *BOX, "--no-draw", "--out", str(out)])
    assert status == 0
    assert 3 <= len(lines(out / "predictions.jsonl")) <= 6
    assert "the video ends after" in capsys.readouterr().err


def test_an_image_of_one_pixel_is_one_line(checkpoint, tmp_path, capsys):
    picture = write_image(tmp_path / "a.png", np.zeros((1, 1, 3), np.uint8))
    assert main([str(checkpoint), str(picture), *LENS, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert "image: expected at least 8 x 8 pixels, got [1, 1, 3]" in line


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("png", "px; at most 256 megapixels are read"),
        ("bmp", "more than 178 megapixels, the most that are read of its format"),
    ],
)
def test_an_image_of_400_megapixels_is_refused_before_it_is_decoded(checkpoint, tmp_path, capsys, kind, limit):
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        path.write_bytes(png_header(20_000, 20_000))
    else:
        head = (
            b"BM"
            + struct.pack("<IHHI", 54, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0)
        )
        path.write_bytes(head + bytes(100))
    assert main([str(checkpoint), str(path), *LENS, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert limit in line
    assert "make it smaller" in line
    assert MOST_PIXELS < 400e6


PICTURES = {
    "grey.png": lambda rgb: Image.fromarray(rgb[..., 0]),
    "alpha.png": lambda rgb: Image.fromarray(np.dstack((rgb, np.full(rgb.shape[:2], 9, np.uint8)))),
    "grey_alpha.png": lambda rgb: Image.fromarray(np.dstack((rgb[..., 0], np.full(rgb.shape[:2], 9, np.uint8))), "LA"),
    "palette.png": lambda rgb: Image.fromarray(rgb).quantize(64),
    "bits16.png": lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 256),
    "bilevel.png": lambda rgb: Image.fromarray(rgb[..., 0]).convert("1"),
    "cmyk.jpg": lambda rgb: Image.fromarray(rgb).convert("CMYK"),
    "cmyk.tif": lambda rgb: Image.fromarray(rgb).convert("CMYK"),
    "animated.webp": lambda rgb: Image.fromarray(rgb),
    "animated.gif": lambda rgb: Image.fromarray(rgb),
}


@pytest.mark.parametrize("name", PICTURES)
def test_an_unusual_picture_is_answered_or_named(checkpoint, photo, tmp_path, capsys, name):
    picture, more = PICTURES[name](photo), {}
    if "animated" in name:
        more = {"save_all": True, "append_images": [Image.fromarray(np.roll(photo, 50, 1))], "duration": 40}
    picture.save(tmp_path / name, **more)
    out = tmp_path / "out"
    status = main([str(checkpoint), str(tmp_path / name), *LENS, *BOX, "--no-draw", "--out", str(out)])
    if status == 0:
        (record,) = lines(out / "predictions.jsonl")
        assert len(record["joints_m"]) == 21
        seen = Images([tmp_path / name]).read(0).image
        expected = photo if name.startswith(("alpha", "cmyk", "anim")) else photo[..., :1]
        assert seen.shape == photo.shape
        assert np.abs(seen.astype(int) - expected).mean() < (130 if name == "bilevel.png" else 60)
    else:
        (line,) = told(capsys)
        assert f"{name}: " in line
        assert ";" in line
    assert status == 0 or name == "cmyk.tif"


def test_a_picture_that_exif_turns_is_upright(checkpoint, photo, tmp_path):
    picture = Image.fromarray(photo)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = Images([tmp_path / "a.jpg"]).read(0).image
    assert np.abs(image.astype(int) - np.rot90(photo, -1)).mean() < 3
    out = tmp_path / "out"
    arguments = ["--fov", "60", "--box", "120,160,100", "--no-draw", "--out", str(out)]
    assert main([str(checkpoint), str(tmp_path / "a.jpg"), *arguments]) == 0
    assert lines(out / "predictions.jsonl")[0]["intrinsics_px"][0][2] == 119.5  # of 240 px across, not 320


def test_a_box_outside_is_one_line_in_python_too(predictor, photo):
    with pytest.raises(
        InputError, match=r"box: the square of 50 px around .* lies outside the picture of 320 x 240 px"
    ) as error:
        predictor(photo, boxes=[(100, 100, 50), (-400, 100, 50)])
    assert "\n" not in str(error.value)


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["pickle", "torch", "file"])
def test_a_pickle_is_no_checkpoint_and_runs_nothing(checkpoint, photo, tmp_path, capsys, form):
    import torch

    folder, ran = tmp_path / "ck", tmp_path / "ran"
    shutil.copytree(checkpoint, folder)
    target = tmp_path / "model.pt" if form == "file" else folder / "model.safetensors"
    if form == "pickle":
        target.write_bytes(pickle.dumps(Bomb(ran)))
    else:
        torch.save({"model": Bomb(ran)}, target)
    given = target if form == "file" else folder
    picture = write_image(tmp_path / "a.png", photo)
    assert main([str(given), str(picture), *LENS, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert str(given) in line
    assert ";" in line
    with pytest.raises(CheckpointError):
        load_checkpoint(given)
    assert not ran.exists()


def header(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


HEADERS = {
    "empty": b"",
    "short": b"\x01\x02",
    "length beyond the file": header(b"{}", 1 << 62),
    "not JSON": header(b"not json at all "),
    "deep JSON": header(b"[" * 50_000),
    "offsets beyond the file": header(
        json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    ),
    "negative shape": header(json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}).encode())
    + bytes(4),
    "unknown dtype": header(json.dumps({"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}).encode())
    + bytes(4),
    "other tensors": header(json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode())
    + bytes(4),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_wrong_safetensors_header_is_one_line(checkpoint, tmp_path, name):
    folder = tmp_path / "ck"
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors cannot be loaded: .*; copy the folder again"
    ) as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)


CONFIGS = {
    "nothing": (lambda _: "", "is not JSON"),
    "deep": (lambda _: "[" * 100_000, "is not JSON"),
    "a list": (lambda _: "[]", 'has no section "model"'),
    "a hand of a number": (lambda own: {**own, "hand": 7}, "model.hand must be a name or a path"),
    "a backbone of a number": (lambda own: {**own, "backbone": 7}, "model.backbone must be a section; got 7"),
    "a size of a list": (lambda own: {**own, "size": []}, "is not a configuration of this version"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_configuration_is_one_line(checkpoint, photo, tmp_path, capsys, name):
    folder, (change, message) = tmp_path / "ck", CONFIGS[name]
    shutil.copytree(checkpoint, folder)
    record = json.loads((folder / "config.json").read_text())
    changed = change(record["model"])
    text = changed if isinstance(changed, str) else json.dumps(record | {"model": changed})
    (folder / "config.json").write_text(text)
    picture = write_image(tmp_path / "a.png", photo)
    assert main([str(folder), str(picture), *LENS, *BOX, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert "config.json" in line
    assert message in line


@pytest.mark.parametrize("name", [b"new\nline.png", b"no text \xff.png"])
def test_a_picture_of_an_odd_name_is_answered(checkpoint, photo, tmp_path, name):
    picture = os.path.join(os.fsencode(tmp_path), name)
    Path(os.fsdecode(picture)).write_bytes(write_image(tmp_path / "a.png", photo).read_bytes())
    out = tmp_path / "out"
    program = [sys.executable, "-m", "amt.infer", str(checkpoint), picture, *LENS, *BOX, "--out", str(out)]
    ran = subprocess.run(program, capture_output=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")[-500:]
    assert b"Traceback" not in ran.stderr
    assert len(lines(out / "predictions.jsonl")[0]["joints_m"]) == 21
    assert len(list(out.glob("*.png"))) == 1


def test_a_video_that_is_a_fifo_is_one_line(checkpoint, tmp_path, capsys):
    os.mkfifo(tmp_path / "v.mp4")
    assert main([str(checkpoint), str(tmp_path / "v.mp4"), *LENS, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert "v.mp4: not a file; check the path" in line


def test_a_gif_beyond_pillows_limit_is_one_line(checkpoint, tmp_path, capsys):
    Image.new("P", (8, 8)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    struct.pack_into("<HH", data, 6, 20_000, 20_000)
    (tmp_path / "a.gif").write_bytes(data)
    assert main([str(checkpoint), str(tmp_path / "a.gif"), *LENS, "--out", str(tmp_path / "out")]) == 2
    (line,) = told(capsys)
    assert "more than 178 megapixels" in line


def test_a_run_without_a_hand_ends_well(unsure_checkpoint, photo, tmp_path):
    video = write_video(tmp_path / "v.mp4", [photo] * 3)
    out = tmp_path / "out"
    assert main([str(unsure_checkpoint), str(video), *LENS, "--csv", "--out", str(out)]) == 0
    assert [r["hand_found"] for r in lines(out / "predictions.jsonl")] == [False] * 3
    assert (out / "overlay.mp4").is_file()
    rows = (out / "predictions.csv").read_text().splitlines()
    assert rows[1].split(",")[4] == "False"
    assert rows[1].endswith(",,,,")
