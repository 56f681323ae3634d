"""Sharpness, noise and brightness of pictures: measured on pictures whose values are known, and matched by rendered ones."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from amt.data.dexycb import DexYCB
from amt.data.errors import DataError
from amt.data.synthetic import match
from amt.data.synthetic.__main__ import main
from amt.data.synthetic.cameras import CameraConfig
from amt.data.synthetic.config import SetConfig
from amt.data.synthetic.match import measure, measure_all, read_folder

pytest.importorskip("embreex")


def picture(slope, seed, height=480, width=640, contrast=25.0):
    """Grey noise whose power falls as frequency ** slope."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    radius[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * radius ** (slope / 2), (height, width))
    grey = 128 + contrast * field / field.std()
    return np.repeat(np.clip(np.round(grey), 0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("slope", [-1.0, -2.0, -3.0])
def test_the_slope_of_pictures_with_a_known_one(slope):
    found = measure_all([picture(slope, seed) for seed in range(3)])
    assert found.slope == pytest.approx(slope, abs=0.06)
    assert found.brightness == pytest.approx(128, abs=1)
    assert found.contrast == pytest.approx(25, rel=0.03)


@pytest.mark.parametrize("sigma", [2.0, 6.0, 12.0])
def test_noise_is_told_from_the_picture(sigma):
    y, x = np.mgrid[:480, :640]
    smooth = np.repeat((90 + 60 * np.sin(x / 40) * np.cos(y / 30))[..., None], 3, 2)
    smooth[:, 300:] += 30  # an edge
    noise = np.random.default_rng(0).normal(0, sigma, (480, 640, 1))
    found = measure(np.clip(np.round(smooth + noise), 0, 255).astype(np.uint8))
    assert found.noise == pytest.approx(np.hypot(sigma, 12**-0.5), rel=0.06)


def test_blur_makes_the_slope_steeper():
    sharp = picture(-2.0, 1)
    assert measure(cv2.GaussianBlur(sharp, (0, 0), 1.2)).slope < measure(sharp).slope - 0.5


# Bounds for pictures of other scenes than the user's are about three times the scatter of 40 pairs of 6 and 6 pictures that share
# no scene: softness 0.12 px, read noise 0.17 grey levels, exposure 0.5 stops (a dark scene is not told from a short exposure).
# With 12 and 6 pictures, 14 pairs, 0.08 of the slope's gap was left on average and 0.25 at most.
# From picture to picture the slope scatters by 0.4 and brightness by 30 grey levels.


def user_camera(softness, noise, stops):
    values = {"softness": softness, "read_noise": noise, "shot_noise": 2 * noise, "exposure": stops, "white_balance": 0}
    return CameraConfig().changed([f"{name}={value}" for name, value in values.items()])


@pytest.fixture(scope="module")
def sharp():
    """Twelve pictures."""
    return match.render_sharp(SetConfig(seed=21, backgrounds="made"))


def test_a_camera_is_found_from_pictures_of_the_same_scenes(monkeypatch):
    """The user's pictures are rendered with the camera; the renderer blurs and exposes each layer by itself."""
    monkeypatch.setattr(match, "PROBES", 3)
    config = SetConfig(seed=4, backgrounds="made")
    theirs = match.render_scenes(replace(config, camera=user_camera(2.5, 2, -0.9)), 3)
    theirs = match.developed(theirs, user_camera(0, 0, 0))  # compresses them
    found = match.camera_like(theirs, match.render_sharp(config), CameraConfig())
    assert np.mean(found.softness) == pytest.approx(2.5, abs=0.15)
    assert np.mean(found.read_noise) == pytest.approx(2, abs=0.15)
    assert np.mean(found.exposure) == pytest.approx(-0.9, abs=0.2)


def test_noise_and_softness_are_found_from_pictures_of_other_scenes(sharp):
    theirs = match.developed(sharp[:6], user_camera(1.4, 2, -0.5))
    found = match.camera_like(theirs, sharp[6:], CameraConfig())
    assert np.mean(found.softness) == pytest.approx(1.4, abs=0.4)
    assert np.mean(found.read_noise) == pytest.approx(2, abs=0.5)
    assert measure_all(match.developed(sharp[6:], found)).noise == pytest.approx(measure_all(theirs).noise, rel=0.3)


@pytest.mark.parametrize("softness", [0.75, 1.4, 2.3, 3.3])
def test_softness_is_found_where_the_slope_does_not_tell_it(softness):
    """The slopes are -3.9, -4.6, -4.8 and -4.6: the softer a picture, the earlier rounding and JPEG end its spectrum."""
    pictures = [picture(-3.0, seed) for seed in range(3)]
    found = match.camera_like(match.developed(pictures, user_camera(softness, 0, 0)), pictures, CameraConfig())
    assert np.mean(found.softness) == pytest.approx(softness, abs=0.1)


def test_rendered_pictures_come_near_to_a_users(tmp_path, monkeypatch, capsys, sharp):
    """The user's camera is softer and darker, and its pictures show other scenes."""
    monkeypatch.setattr(match, "PROBES", 6)
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    theirs = match.developed(sharp, user_camera(2.5, 0.3, -0.9))
    for number, image in enumerate(theirs):
        cv2.imwrite(str(given / f"{number}.png"), image[..., ::-1])
    words = ["--independent", "6", "--seed", "4", "--workers", "1", "--quiet", "--backgrounds", "made"]
    assert main([str(out), *words, "--match", str(given), "--sheet", str(tmp_path / "s.jpg")]) == 0
    told, wanted = capsys.readouterr().out, measure_all(theirs)
    assert "spectrum's slope" in told
    assert f"{wanted.slope:.2f}" in told
    found = measure_all([frame.image() for frame in DexYCB(out, "s0", "train")])
    before = float(next(line for line in told.splitlines() if "slope" in line).split()[-2])
    assert abs(found.slope - wanted.slope) < 0.5 * abs(before - wanted.slope)
    assert abs(found.brightness - wanted.brightness) < 25
    assert cv2.imread(str(tmp_path / "s.jpg")).shape == (720, 1280, 3)
    record = json.loads((out / "synthetic.json").read_text())
    assert np.mean(record["camera.softness"]) == pytest.approx(2.5, abs=0.4)
    assert np.mean(record["camera.read_noise"]) == pytest.approx(0.3, abs=0.5)


def test_a_folder_without_pictures_is_named(tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    with pytest.raises(DataError, match="--match"):
        read_folder(str(tmp_path))
