"""Calibrations of OpenCV, ROS, DexYCB, RealSense, Open3D, JSON and nine numbers are read; what is none is named."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from amt.data.errors import FileError
from amt.infer.cameras import as_camera, diagonal_camera, exif_camera, read_calibration
from amt.infer.checks import InputError
from amt.infer.lens import Lens

K = np.array([[612.5, 0, 318.25], [0, 611.0, 243.5], [0, 0, 1]])
D = (-0.31, 0.12, 0.0008, -0.0011, -0.02)


def test_what_opencv_writes_is_read(tmp_path):
    file = cv2.FileStorage(str(tmp_path / "c.yml"), cv2.FILE_STORAGE_WRITE)
    for name, value in (("image_width", 640), ("image_height", 480), ("camera_matrix", K)):
        file.write(name, value)
    file.write("distortion_coefficients", np.array(D)[None])
    file.release()
    camera = read_calibration(tmp_path / "c.yml")
    np.testing.assert_array_equal(camera.intrinsics, K)
    assert (camera.lens, camera.size) == (Lens("brown", D), (480, 640))


ROS = """image_width: 640
image_height: 480
camera_name: head
camera_matrix:
  rows: 3
  cols: 3
  data: [612.5, 0., 318.25, 0., 611., 243.5, 0., 0., 1.]
distortion_model: {model}
distortion_coefficients:
  rows: 1
  cols: {count}
  data: {data}
rectification_matrix:
  rows: 3
  cols: 3
  data: [1., 0., 0., 0., 1., 0., 0., 0., 1.]
"""


@pytest.mark.parametrize(
    ("name", "model", "data"), [("plumb_bob", "brown", D), ("equidistant", "fisheye", (0.1, 0, 0, 0.2))]
)
def test_ros_camera_info_is_read(tmp_path, name, model, data):
    (tmp_path / "c.yaml").write_text(ROS.format(model=name, count=len(data), data=list(data)))
    camera = read_calibration(tmp_path / "c.yaml")
    np.testing.assert_array_equal(camera.intrinsics, K)
    assert (camera.lens.model, camera.lens.coefficients, camera.size) == (model, data, (480, 640))


DEXYCB = "color:\n  fx: 612.5\n  fy: 611.0\n  ppx: 318.25\n  ppy: 243.5\ndepth:\n  fx: 1\n  fy: 1\n  ppx: 1\n  ppy: 1\n"
OTHERS = {
    "dexycb.yml": DEXYCB,
    "realsense.json": json.dumps(
        {"color": {"width": 640, "height": 480, "fx": 612.5, "fy": 611, "ppx": 318.25, "ppy": 243.5,
                   "model": "distortion.inverse_brown_conrady", "coeffs": [0, 0, 0, 0, 0]}}
    ),
    "open3d.json": json.dumps({"width": 640, "height": 480, "intrinsic_matrix": K.T.ravel().tolist()}),
    "k.json": json.dumps({"K": K.tolist()}),
    "nested.json": json.dumps({"camera": {"fx": 612.5, "fy": 611, "cx": 318.25, "cy": 243.5}}),
    "nine.txt": "612.5 0 318.25\n0 611 243.5\n0 0 1\n",
    "nine.csv": ",".join(map(str, K.ravel())),
    "list.json": json.dumps(K.tolist()),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms_are_read(tmp_path, name):
    (tmp_path / name).write_text(OTHERS[name])
    camera = read_calibration(tmp_path / name)
    np.testing.assert_array_equal(camera.intrinsics, K)
    assert camera.lens is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("fx: 3", "holds no camera matrix"),
        ("1 2 3 4 5", "holds 5 numbers that are no camera"),
        ("{bad", "is not JSON"),
        ('{"K": [1, 2, "a"]}', "holds no camera matrix"),
        ("[" * 3000, "no camera|YAML|collections"),
        ("!!python/object/apply:os.system ['touch ran']", "is not YAML"),
        (ROS.format(model="omni", count=1, data=[1.0]), "has the distortion model 'omni'"),
        (ROS.format(model="plumb_bob", count=2, data=[1.0, 2.0]), "holds a distortion that is not understood"),
    ],
)
def test_what_is_no_calibration_is_named(tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(FileError, match=rf"c\.yml: .*({message})") as told:
        read_calibration("c.yml")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileError, match=r"none\.yml: cannot be read"):
        read_calibration("none.yml")


def test_k_follows_a_picture_that_was_scaled_and_refuses_another_shape(tmp_path):
    (tmp_path / "c.yaml").write_text(ROS.format(model="plumb_bob", count=5, data=[0.0] * 5))
    camera = read_calibration(tmp_path / "c.yaml")
    assert camera.of_picture(480, 640) is camera.intrinsics
    half = camera.of_picture(240, 320)
    corner = np.array((640 - 0.5, 480 - 0.5, 1))  # the picture's lower right corner, full and half size
    seen = np.linalg.solve(K, corner)
    np.testing.assert_allclose(half @ seen, (320 - 0.5, 240 - 0.5, 1), atol=1e-9)
    with pytest.raises(InputError, match="640 x 480 px, and this one has 300 x 300 px, another shape"):
        camera.of_picture(300, 300)


def test_numbers_of_any_kind_are_a_camera():
    import torch

    for given in (K, K.ravel(), K.tolist(), torch.from_numpy(K), (612.5, 611.0, 318.25, 243.5)):
        np.testing.assert_array_equal(as_camera(given).intrinsics, K)
    assert as_camera(None) is None
    assert as_camera(K, D).lens == Lens("brown", D)
    for bad in ((1, 2), np.zeros((2, 3)), "ab", [[1], [2, 3]]):
        with pytest.raises((InputError, FileError)):
            as_camera(bad)


def test_an_assumed_camera_has_the_stated_field_of_view():
    k = diagonal_camera(480, 640, 75)
    corners = np.linalg.solve(k, np.array([(-0.5, -0.5, 1), (639.5, 479.5, 1)]).T).T
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    assert np.degrees(np.arccos(corners[0] @ corners[1])) == pytest.approx(75)


def test_exif_says_the_focal_length(tmp_path, photo):
    from PIL import Image

    picture = Image.fromarray(photo)
    exif = picture.getexif()
    exif.get_ifd(0x8769)[0xA405] = 26
    picture.save(tmp_path / "a.jpg", exif=exif)
    picture.save(tmp_path / "b.jpg")
    height, width = photo.shape[:2]
    k = exif_camera(tmp_path / "a.jpg", height, width)
    assert k[0, 0] == k[1, 1] == pytest.approx(26 / np.hypot(36, 24) * np.hypot(height, width))
    assert exif_camera(tmp_path / "b.jpg", height, width) is None
    assert exif_camera(tmp_path / "none.jpg", height, width) is None
