"""Sharpness, noise and brightness of pictures: measured on pictures whose values are known, and matched by rendered ones."""

import json

import cv2
import numpy as np
import pytest

from amt.data.dexycb import DexYCB
from amt.data.errors import DataError
from amt.data.synthetic.__main__ import main
from amt.data.synthetic.cameras import CameraConfig
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


def test_rendered_pictures_come_near_to_a_users(tmp_path, capsys):
    """A user's pictures are rendered ones with another camera: softer and darker."""
    theirs = CameraConfig(softness=(2.5, 2.5), read_noise=(0.3, 0.3), shot_noise=(0.6, 0.6), exposure=(-0.9, -0.9))
    words = [f"{name}={getattr(theirs, name)[0]}" for name in ("softness", "read_noise", "shot_noise", "exposure")]
    given, out = tmp_path / "given", tmp_path / "out"
    common = ["--workers", "1", "--quiet", "--backgrounds", "made"]
    assert main([str(given), "--independent", "6", "--seed", "21", *common, "--camera", *words]) == 0
    wanted = measure_all(read_folder(str(given)))
    capsys.readouterr()
    matched = ["--match", str(given), "--sheet", str(tmp_path / "s.jpg")]
    assert main([str(out), "--independent", "6", "--seed", "4", *common, *matched]) == 0
    told = capsys.readouterr().out
    assert "spectrum's slope" in told
    assert f"{wanted.slope:.2f}" in told
    found = measure_all([frame.image() for frame in DexYCB(out, "s0", "train")])
    before = float(next(line for line in told.splitlines() if "slope" in line).split()[-2])
    assert abs(found.slope - wanted.slope) < 0.5 * abs(before - wanted.slope)
    assert found.noise == pytest.approx(wanted.noise, rel=0.3)
    assert abs(found.brightness - wanted.brightness) < 25
    assert cv2.imread(str(tmp_path / "s.jpg")).shape == (720, 1280, 3)
    softness = json.loads((out / "synthetic.json").read_text())["camera.softness"]
    assert softness[0] > CameraConfig().softness[1]


def test_a_folder_without_pictures_is_named(tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    with pytest.raises(DataError, match="--match"):
        read_folder(str(tmp_path))
