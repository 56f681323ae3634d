"""What a camera and a box can be: limits of lenses and of pictures, told in one line that names what is impossible.

The command line and the predictor refuse the same values with the same words.
"""

from __future__ import annotations

import math

import numpy as np

from amt.errors import UserError

LARGEST_FOV = 150.0  # degrees: no lens without distortion shows more
SMALLEST_FOV = 0.5  # degrees: a lens of 4 m focal length on full frame
LARGEST_ASPECT = 3.0  # of a pixel's sides
SMALLEST_BOX = 8.0  # px: fewer show no hand; also the smallest box of the training's rule
LARGEST_BOX = 3.0  # times the picture's longer side
SHOWN = 0.25  # share of the box's side, in x and in y, that must lie in the picture


class InputError(UserError, ValueError):
    """Something that the user gave cannot be used; the message names it and the remedy, on one line."""


def check_size(image: np.ndarray) -> None:
    """Raises InputError unless a picture [H, W, ...] is large enough to show a hand."""
    if min(image.shape[:2]) < SMALLEST_BOX:
        raise InputError(
            f"image: expected at least {SMALLEST_BOX:g} x {SMALLEST_BOX:g} pixels, got {list(image.shape)}"
        )


def check_fov(degrees: float, name: str = "fov") -> None:
    """Raises InputError unless a horizontal field of view is one that a lens without distortion can have."""
    if not SMALLEST_FOV <= degrees <= LARGEST_FOV:
        raise InputError(f"{name}: expected {SMALLEST_FOV:g} to {LARGEST_FOV:g} degrees, got {degrees:g}")


def fov_camera(degrees: float, height: int, width: int) -> np.ndarray:
    """float64 [3, 3], px: K of a picture [height, width] with this horizontal field of view, centred, with square pixels."""
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def check_camera(intrinsics: np.ndarray, height: int, width: int, name: str = "intrinsics") -> None:
    """Raises InputError unless K [3, 3] (px) can be the camera of a picture of ``height`` x ``width`` px.

    Its numbers are finite, its focal lengths above 0, its second row begins with 0 and its last row is (0, 0, 1). Its field
    of view is 0.5 to 150 degrees in each direction, and no pixel lies more than 75 degrees from the optical axis.
    """
    try:
        k = np.asarray(intrinsics, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected numbers [3, 3] in px, got {intrinsics!r}") from None
    if k.shape != (3, 3):
        raise InputError(f"{name}: expected [3, 3], got {list(k.shape)}")
    if not np.isfinite(k).all():
        raise InputError(f"{name}: expected finite numbers, got {k.tolist()}")
    (fx, _, cx), (_, fy, cy) = k[:2]
    if not (fx > 0 and fy > 0):
        raise InputError(f"{name}: focal lengths must be above 0 px, got fx {fx:g}, fy {fy:g}; check the calibration")
    if k[1, 0] != 0 or (k[2] != (0, 0, 1)).any():
        raise InputError(
            f"{name}: expected rows (fx, skew, cx), (0, fy, cy), (0, 0, 1), got {k.tolist()}; K may be transposed"
        )
    picture = f"{width} x {height} px"
    for focal, centre, size, axis in ((fx, cx, width, "x"), (fy, cy, height, "y")):
        fov = 2 * math.degrees(math.atan(size / 2 / focal))
        if not SMALLEST_FOV <= fov <= LARGEST_FOV:
            raise InputError(
                f"{name}: f{axis} {focal:g} px over a picture of {picture} is a field of view of {fov:.4g} degrees, "
                f"{SMALLEST_FOV:g} to {LARGEST_FOV:g} are possible; give K in px (normalised values times {width} and {height})"
            )
        farthest = math.degrees(math.atan(max(centre + 0.5, size - 0.5 - centre) / focal))
        if farthest > LARGEST_FOV / 2:
            raise InputError(
                f"{name}: c{axis} {centre:g} px puts the picture of {picture} up to {farthest:.1f} degrees from the optical "
                f"axis, {LARGEST_FOV / 2:g} are possible; give the K of this picture, in px"
            )
    if not 1 / LARGEST_ASPECT <= fx / fy <= LARGEST_ASPECT:
        raise InputError(
            f"{name}: fx {fx:g} and fy {fy:g} px are those of pixels {max(fx / fy, fy / fx):.1f} times as long as wide, at "
            f"most {LARGEST_ASPECT:g} were expected; check the calibration"
        )


def check_box(box: np.ndarray, height: int, width: int, name: str = "box") -> np.ndarray:
    """The square as float64 [3] (cx, cy, side; px), after checks.

    Raises:
        InputError: it is not three finite numbers, its side is under 8 px or over 3 times the longer side of the picture of
            ``height`` x ``width`` px, or less than a quarter of it (in x or in y) lies in the picture.
    """
    try:
        square = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected (cx, cy, side) in px, got {box!r}") from None
    if square.shape != (3,) or not np.isfinite(square).all() or square[2] <= 0:
        raise InputError(f"{name}: expected (cx, cy, side) in px with a side above 0, got {square.tolist()}")
    cx, cy, side = square
    picture, largest = f"{width} x {height} px", LARGEST_BOX * max(height, width)
    if side < SMALLEST_BOX:
        raise InputError(f"{name}: a side of {side:g} px shows no hand; at least {SMALLEST_BOX:g} px were expected")
    if side > largest:
        raise InputError(
            f"{name}: a side of {side:g} px is too large for a picture of {picture}; at most {largest:g} px were expected"
        )
    for centre, size in ((cx, width), (cy, height)):
        inside = min(centre + side / 2, size - 0.5) - max(centre - side / 2, -0.5)
        if inside < SHOWN * min(side, size):
            raise InputError(
                f"{name}: the square of {side:g} px around ({cx:g}, {cy:g}) lies outside the picture of {picture}; at least "
                "a quarter of it must lie inside, in x and in y"
            )
    return square
