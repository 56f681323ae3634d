"""Projection, and what a crop does to the camera."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amt.hand.camera import camera_roll, check_intrinsics, crop_camera, project, unproject

K = ((613.076, 0.0, 313.028), (0.0, 611.999, 245.009), (0.0, 0.0, 1.0))


def points_in_view(dtype, count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return ((points - 0.5) * torch.tensor((0.5, 0.4, 0.6)) + torch.tensor((0.0, 0.0, 0.8))).to(dtype)


def warped(pixels, warp):
    return pixels @ warp[:, :2].mT + warp[:, 2]


def test_project_by_hand():
    pixel = project(torch.tensor(((0.1, -0.2, 0.5),), dtype=torch.float64), torch.tensor(K, dtype=torch.float64))[0]
    assert pixel.tolist() == pytest.approx((613.076 * 0.2 + 313.028, 611.999 * -0.4 + 245.009), abs=1e-9)


def test_skew_is_used():
    skewed = torch.tensor(K, dtype=torch.float64)
    skewed[0, 1] = 7.0
    points = points_in_view(torch.float64)
    homogeneous = points @ skewed.T
    torch.testing.assert_close(project(points, skewed), homogeneous[:, :2] / homogeneous[:, 2:])
    torch.testing.assert_close(unproject(project(points, skewed), points[:, 2], skewed), points)


def test_batches_broadcast_and_numpy_is_taken():
    points = points_in_view(torch.float64).reshape(4, 16, 3)
    intrinsics = torch.tensor(K, dtype=torch.float64).repeat(4, 1, 1)
    intrinsics[:, 0, 2] += torch.arange(4)
    batched = project(points, intrinsics)
    for i in range(4):
        torch.testing.assert_close(batched[i], project(points[i].numpy(), intrinsics[i].numpy()))


def test_points_at_and_behind_the_camera_stay_finite():
    points = torch.tensor(((0.1, 0.1, 0.0), (0.1, 0.1, -1.0), (0.1, 0.1, 1e-12)), requires_grad=True)
    pixels = project(points, torch.tensor(K))
    pixels.sum().backward()
    assert torch.isfinite(pixels).all()
    assert torch.isfinite(points.grad).all()


@settings(max_examples=60, deadline=None)
@given(
    centre=st.tuples(st.floats(-200, 840), st.floats(-200, 680)),
    side=st.floats(20, 900),
    angle=st.floats(-7, 7),
    size=st.integers(1, 518),
    skew=st.sampled_from((0.0, 3.0)),
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_warped_pixels_are_the_crop_camera_s(dtype, tolerance, centre, side, angle, size, skew):
    intrinsics = torch.tensor(K, dtype=dtype)
    intrinsics[0, 1] = skew
    points = points_in_view(dtype)
    cropped, warp = crop_camera(intrinsics, (*centre, side), size, angle)
    assert cropped.dtype == warp.dtype == dtype
    assert cropped[0, 1] == 0
    assert cropped[1, 0] == 0
    rotated = points @ camera_roll(torch.tensor(angle, dtype=dtype)).T
    there, here = project(rotated, cropped), warped(project(points, intrinsics), warp)
    # A crop of a few pixels' side magnifies: float32 rounding is that of the frame's pixels, seen through the zoom.
    zoom = max(1.0, size / side)
    assert (there - here).abs().max() <= tolerance * zoom


def test_upright_crop_is_the_stated_formula():
    box = torch.tensor((300.5, 200.25, 180.0), dtype=torch.float64)
    _, warp = crop_camera(torch.tensor(K, dtype=torch.float64), box, 224)
    pixel = torch.tensor(((320.0, 150.0),), dtype=torch.float64)
    expected = (pixel - box[:2]) * 224 / 180 + 224 / 2 - 0.5
    torch.testing.assert_close(warped(pixel, warp), expected)


def test_the_corners_of_the_box_are_the_corners_of_the_crop():
    """Pixel centres lie half a pixel inside: the box's edges fall on -0.5 and size - 0.5."""
    _, warp = crop_camera(torch.tensor(K, dtype=torch.float64), (300.0, 200.0, 100.0), 56)
    edges = torch.tensor(((250.0, 150.0), (350.0, 250.0)), dtype=torch.float64)
    torch.testing.assert_close(warped(edges, warp), torch.tensor(((-0.5, -0.5), (55.5, 55.5)), dtype=torch.float64))


def test_turning_is_clockwise_on_screen():
    cropped, warp = crop_camera(torch.tensor(K, dtype=torch.float64), (313.028, 245.009, 100.0), 101, np.pi / 2)
    right_of_centre = torch.tensor(((323.028, 245.009),), dtype=torch.float64)
    x, y = warped(right_of_centre, warp)[0].tolist()
    assert x == pytest.approx(50, abs=1e-6)
    assert y > 55
    assert cropped[0, 0] == pytest.approx(613.076 * 1.01)


def test_batched_crops_are_the_single_ones():
    intrinsics = torch.tensor(K, dtype=torch.float64).repeat(3, 1, 1)
    boxes = torch.tensor(((300.0, 200, 100), (320.0, 240, 200), (10.0, 20, 300)), dtype=torch.float64)
    angles = torch.tensor((0.0, 0.5, -2.0), dtype=torch.float64)
    cropped, warp = crop_camera(intrinsics, boxes, 112, angles)
    assert cropped.shape == (3, 3, 3)
    assert warp.shape == (3, 2, 3)
    shared, _ = crop_camera(intrinsics[0], boxes, 112, angles)
    torch.testing.assert_close(shared, cropped)
    for i in range(3):
        one = crop_camera(intrinsics[i].numpy(), boxes[i].numpy(), 112, angles[i].item())
        torch.testing.assert_close(one[0], cropped[i])
        torch.testing.assert_close(one[1], warp[i])


def test_opencv_makes_the_crop_that_the_camera_describes():
    cv2 = pytest.importorskip("cv2")
    intrinsics = np.array(K)
    point = np.array(((0.03, -0.02, 0.7),))
    x, y = project(point, intrinsics)[0].tolist()
    ys, xs = np.mgrid[0:480, 0:640]
    frame = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 6.0**2))
    cropped, warp = crop_camera(intrinsics, (x + 15, y - 20, 160.0), 112, 0.6)
    crop = cv2.warpAffine(frame, warp.numpy(), (112, 112), flags=cv2.INTER_LINEAR)
    ys, xs = np.mgrid[0:112, 0:112]
    blob = np.array(((crop * xs).sum(), (crop * ys).sum())) / crop.sum()
    expected = project(point @ camera_roll(0.6).double().numpy().T, cropped)[0].numpy()
    assert np.abs(blob - expected).max() < 0.05


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ((0, 0), 0.0, "focal lengths must be above 0"),
        ((1, 1), -600.0, "focal lengths must be above 0"),
        ((0, 0), float("nan"), "finite"),
        ((1, 1), float("inf"), "finite"),
        ((2, 2), 0.0, "last row"),
    ],
)
def test_a_broken_camera_is_named(entry, value, message):
    intrinsics = torch.tensor(K)
    intrinsics[entry] = value
    with pytest.raises(ValueError, match=f"intrinsics: .*{message}"):
        crop_camera(intrinsics, (300, 200, 100), 112)
    with pytest.raises(ValueError, match="frame K: "):
        check_intrinsics(intrinsics, "frame K")


@pytest.mark.parametrize("box", [(300, 200, 0), (300, 200, -5), (float("nan"), 200, 100), (300, 200, float("inf"))])
def test_a_broken_box_is_named(box):
    with pytest.raises(ValueError, match="box: "):
        crop_camera(torch.tensor(K), box, 112)
