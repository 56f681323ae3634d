"""Lenses against OpenCV's formulas, written here anew, and against OpenCV itself; crops through a lens are a pinhole camera's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from amt.draw.scene import camera_view
from amt.hand.camera import crop_camera
from amt.infer.checks import InputError
from amt.infer.lens import Lens, as_lens, cut_through, project_through

K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])
BROWN4, BROWN5 = (-0.28, 0.09, 0.001, -0.002), (-0.31, 0.12, 0.0008, -0.0011, -0.02)
BROWN8 = (0.52, -2.1, 0.0006, -0.0004, 1.3, 0.4, -1.9, 1.2)
FISHEYE4 = (0.06, -0.02, 0.006, -0.001)
POINTS = np.random.default_rng(0).uniform((-0.45, -0.45, 0.8), (0.45, 0.45, 1.2), (500, 3))


def opencv_brown(points, coefficients):
    """OpenCV's manual, calib3d: the pinhole model with radial and tangential terms."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*coefficients, *[0.0] * (8 - len(coefficients)))
    seen = []
    for x, y in points[:, :2] / points[:, 2:]:
        r2 = x**2 + y**2
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        seen.append(
            (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y)
        )
    return np.array(seen)


def opencv_fisheye(points, coefficients):
    """OpenCV's manual, fisheye: theta_d = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)."""
    seen = []
    for x, y, z in points:
        a, b = x / z, y / z
        r = np.sqrt(a**2 + b**2)
        theta = np.arctan(r)
        bent = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(coefficients)))
        seen.append((bent / r * a, bent / r * b))
    return np.array(seen)


@pytest.mark.parametrize("coefficients", [BROWN4, BROWN5, BROWN8])
def test_brown_and_conrady_is_opencvs(coefficients):
    plane = Lens("brown", coefficients).plane(POINTS)
    np.testing.assert_allclose(plane, opencv_brown(POINTS, coefficients), rtol=0, atol=1e-12)
    pixels, _ = cv2.projectPoints(POINTS, np.zeros(3), np.zeros(3), K, np.array(coefficients))
    np.testing.assert_allclose(project_through(POINTS, K, as_lens(coefficients)), pixels[:, 0], atol=1e-8)


def test_kannala_and_brandt_is_opencvs():
    lens = as_lens(("fisheye", FISHEYE4))
    np.testing.assert_allclose(lens.plane(POINTS), opencv_fisheye(POINTS, FISHEYE4), rtol=0, atol=1e-12)
    pixels, _ = cv2.fisheye.projectPoints(POINTS[:, None], np.zeros(3), np.zeros(3), K, np.array(FISHEYE4))
    np.testing.assert_allclose(project_through(POINTS, K, lens), pixels[:, 0], atol=1e-8)


@pytest.mark.parametrize(
    "lens", [Lens("brown", BROWN4), Lens("brown", BROWN5), Lens("brown", BROWN8), Lens("fisheye", FISHEYE4)]
)
def test_rays_are_the_inverse(lens):
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    np.testing.assert_allclose(lens.rays(lens.plane(POINTS)), unit, atol=1e-8)


def test_a_fisheye_sees_beside_and_behind():
    angle = np.radians((5.0, 60, 89, 100))
    rays = np.stack((np.sin(angle), 0 * angle, np.cos(angle)), 1)
    lens = Lens("fisheye", (0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(lens.plane(rays)[:, 0], angle, atol=1e-12)
    np.testing.assert_allclose(lens.rays(lens.plane(rays)), rays, atol=1e-9)


def test_beyond_the_calibrated_angle_nothing_folds_back():
    """x (1 - 0.3 x²) turns back at x = 1.05: what lies farther out must not appear inside."""
    x = np.linspace(0, 4, 100)
    for lens in (Lens("brown", (-0.3, 0.0, 0.0, 0.0)), Lens("fisheye", (-0.3, 0.0, 0.0, 0.0))):
        shown = lens.plane(np.stack((x, 0 * x, 1 + 0 * x), 1))[:, 0]
        assert (np.diff(shown) > 0).all()


def scene(plane: np.ndarray) -> np.ndarray:
    """A smooth picture [N, 3] (0-255) over the plane z = 1."""
    x, y = plane.T
    return 127 + 100 * np.stack((np.sin(9 * x + 2), np.sin(11 * y), np.cos(7 * (x + y))), 1)


def photograph(k: np.ndarray, lens: Lens, height: int = 480, width: int = 640) -> np.ndarray:
    """What a camera behind a lens sees of :func:`scene`."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    rays = lens.rays((grid - k[:2, 2]) / np.diag(k)[:2])
    return scene(rays[:, :2] / rays[:, 2:]).reshape(height, width, 3).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("lens", [Lens("brown", BROWN5), Lens("fisheye", FISHEYE4)])
@pytest.mark.parametrize("side", [90, 300])
def test_a_crop_through_a_lens_shows_what_a_pinhole_camera_sees(lens, side):
    k = np.array([[520.0, 0, 318], [0, 515, 242], [0, 0, 1]])
    crop = cut_through(photograph(k, lens), k, lens, np.array((430.0, 180, side)), 112)
    grid = np.stack(np.meshgrid(np.arange(112), np.arange(112)), -1).reshape(-1, 2)
    rays = np.column_stack(((grid - crop.intrinsics[:2, 2]) / np.diag(crop.intrinsics)[:2], np.ones(len(grid))))
    rays = rays @ crop.rotation  # into the picture's camera
    expected = scene(rays[:, :2] / rays[:, 2:]).reshape(112, 112, 3)
    assert np.abs(crop.image - expected).mean() < 1.5
    np.testing.assert_allclose(crop.rotation @ crop.rotation.T, np.eye(3), atol=1e-12)
    middle = lens.rays((np.array([[430.0, 180]]) - k[:2, 2]) / np.diag(k)[:2])[0]
    seen = crop.intrinsics @ crop.rotation @ middle
    np.testing.assert_allclose(seen[:2] / seen[2], (55.5, 55.5), atol=1e-6)  # the box's centre is the crop's


def test_a_lens_that_hardly_bends_gives_the_pinhole_cameras_crop():
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    k, box = np.array([[310.0, 0, 158], [0, 310, 121], [0, 0, 1]]), np.array((150.0, 120, 90))
    crop = cut_through(image, k, Lens("brown", (1e-9, 0.0, 0.0, 0.0)), box, 112)
    expected, warp = crop_camera(k, box, 112)
    np.testing.assert_allclose(crop.intrinsics, expected.numpy(), atol=1e-4)
    assert np.abs(crop.image.astype(int) - cv2.warpAffine(image, warp.numpy(), (112, 112))).max() <= 6


def test_drawing_goes_through_the_lens():
    lens = Lens("brown", BROWN5)
    np.testing.assert_allclose(camera_view(K, lens)(POINTS)[0], project_through(POINTS, K, lens))
    assert np.isnan(camera_view(K, lens)(-POINTS)[0]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 2, 3), "expected k1, k2, p1, p2"),
        ((1, 2, 3, np.nan), "expected k1, k2, p1, p2"),
        ("fisheye:1,2", "for fisheye"),
        ("fish:1,2,3,4", "the model 'fish'"),
        ("a,b,c,d", "expected k1"),
        ({"model": 3}, "the model 3"),
        ((0.1,) * 14, "expected k1"),
    ],
)
def test_wrong_coefficients_are_named(given, message):
    with pytest.raises(InputError, match=f"distortion: .*{message}"):
        as_lens(given)


def test_no_distortion_is_no_lens():
    for given in (None, (0, 0, 0, 0, 0), "0,0,0,0", [0] * 8, {"model": "plumb_bob", "coefficients": [0.0] * 5}):
        assert as_lens(given) is None
    assert as_lens((0.1, 0, 0, 0, *[0] * 10)) == Lens("brown", (0.1, *[0.0] * 7))
    assert as_lens("fisheye:0,0,0,0").model == "fisheye"  # it bends all the same
