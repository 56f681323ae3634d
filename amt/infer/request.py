"""What the predictor is asked: one image with all that is known about it, and many such from the arguments of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amt.infer.arrays import as_pictures
from amt.infer.cameras import ASSUMED_FOV, Camera, as_camera, diagonal_camera
from amt.infer.checks import InputError, check_box, check_camera, check_size
from amt.infer.lens import Lens, as_lens
from amt.infer.objects import HeldObject, ObjectLike

SIDES = ("right", "left")


@dataclass(frozen=True)
class Request:
    """One hand in one image, and what is known about it."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    intrinsics: np.ndarray  # [3, 3], px: K of the image
    box: np.ndarray | tuple[float, float, float] | None = None  # px: centre x, centre y, side; None: it is looked for
    side: str = "right"  # which hand it is: "right" or "left"
    object: ObjectLike | HeldObject = None  # None, a YCB name or class id, a mesh file, points [N, 3] in metres
    near: np.ndarray | None = None  # px: a square to start the search at, such as the previous frame's
    lens: Lens | None = None  # the distortion of the image; None: a pinhole camera took it
    intrinsics_assumed: float | None = None  # degrees over the diagonal that K was made from, where nobody knows it

    def check(self) -> None:
        """Raises InputError, a ValueError that names the field, for what cannot be an image, a camera, a box or a side."""
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
            raise InputError(f"image: expected a uint8 array [H, W, 3] (RGB), got {got}")
        check_size(image)
        check_camera(self.intrinsics, *image.shape[:2])
        for name in ("box", "near"):
            if getattr(self, name) is not None:
                check_box(getattr(self, name), *image.shape[:2], name)
        if self.side not in SIDES:
            raise InputError(f"side: expected 'right' or 'left', got {self.side!r}")


def requests_of(
    image: Any, intrinsics: Any, boxes: Any, side: Any, object: ObjectLike, distortion: Any
) -> tuple[list[list[Request]], list[bool], bool]:
    """The arguments of :meth:`amt.infer.Predictor.__call__`, checked for their number and form.

    Returns:
        The requests of each image, whether each image asked for one hand alone, and whether one image was given alone.

    Raises:
        InputError: arguments that do not belong to each other.
    """
    pictures, alone = as_pictures(image)
    count = len(pictures)
    lens = as_lens(distortion)
    cameras = [as_camera(given, lens) for given in ([intrinsics] if alone else _cameras(intrinsics, count))]
    asked = [boxes] if alone else _each(boxes, count, "boxes")
    sides = [side] if alone or isinstance(side, str) else _each(side, count, "side")
    sides = sides * count if isinstance(side, str) and not alone else sides
    requests, single = [], []
    for i, picture in enumerate(pictures):
        camera = cameras[i if len(cameras) > 1 else 0]
        hands, one = _hands(asked[i], sides[i])
        single.append(one)
        requests.append([_request(picture, camera, lens, box, which, object) for box, which in hands])
    return requests, single, alone


def _request(picture, camera: Camera | None, lens: Lens | None, box, side: str, object: ObjectLike) -> Request:
    height, width = picture.shape[:2]
    if camera is None:
        k = diagonal_camera(max(height, 1), max(width, 1))
        return Request(picture, k, box, side, object, lens=lens, intrinsics_assumed=ASSUMED_FOV)
    return Request(picture, camera.of_picture(height, width), box, side, object, lens=camera.lens)


def _cameras(given: Any, count: int) -> list:
    """One camera for all images, or one for each: a list or tuple of them, or [B, 3, 3]."""
    if getattr(given, "ndim", 0) == 3 or (
        isinstance(given, (list, tuple)) and not _is_number(given) and not _is_matrix(given)
    ):
        return _each(given, count, "intrinsics")
    return [given]


def _is_number(given: Sequence) -> bool:
    return len(given) > 0 and not hasattr(given[0], "__len__")


def _is_matrix(given: Sequence) -> bool:
    return len(given) == 3 and all(
        not isinstance(row, str) and hasattr(row, "__len__") and _is_number(row) for row in given
    )


def _each(given: Any, count: int, name: str) -> list:
    """One value for each of ``count`` images."""
    if given is None:
        return [None] * count
    if not hasattr(given, "__len__") or isinstance(given, str) or len(given) != count:
        raise InputError(f"{name}: expected one for each of the {count} images, got {_what(given)}")
    return list(given)


def _what(given: Any) -> str:
    return f"{len(given)}" if hasattr(given, "__len__") and not isinstance(given, str) else repr(given)


def _hands(boxes: Any, side: Any) -> tuple[list[tuple[Any, str]], bool]:
    """(box, side) of each hand in an image, and whether one was asked for alone."""
    if boxes is None or _is_box(boxes):
        if side is not None and not isinstance(side, str):
            raise InputError(f"side: expected 'right' or 'left' for one hand, got {side!r}")
        return [_hand(boxes, side)], True
    if not hasattr(boxes, "__len__"):
        raise InputError(f"boxes: expected (cx, cy, side) in px or a list of them, got {boxes!r}")
    sides = [side] * len(boxes) if side is None or isinstance(side, str) else list(side)
    if len(sides) != len(boxes):
        raise InputError(f"side: expected one for each of the {len(boxes)} boxes, got {len(sides)}")
    return [_hand(box, which) for box, which in zip(boxes, sides)], False


def _is_box(given: Any) -> bool:
    """Whether ``given`` is one square: three numbers, a text (which is none), or what a locator found."""
    if isinstance(given, str) or hasattr(given, "box"):
        return True
    return hasattr(given, "__len__") and len(given) > 0 and not hasattr(given[0], "box") and np.ndim(given[0]) == 0


def _hand(given: Any, side: str | None) -> tuple[Any, str]:
    """The square and the side; what a locator found has both."""
    if hasattr(given, "box"):
        return np.asarray(given.box, np.float64), side or given.side
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    return given, side or "right"
