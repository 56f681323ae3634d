"""Cameras from what users have: calibration files of OpenCV, ROS, DexYCB and RealSense, JSON, nine numbers, or nothing at all.

Nothing that a file holds is executed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from amt.data.errors import FileError
from amt.data.files import MOST_TEXT, parse_yaml, read_file
from amt.infer.checks import InputError
from amt.infer.lens import BROWN, FISHEYE, NAMES, Lens, as_lens

ASSUMED_FOV = 75.0  # degrees over the diagonal: a lens of 28 mm on full frame, as telephones and webcams have
FULL_FRAME = math.hypot(36, 24)  # mm: the diagonal that EXIF's 35 mm equivalent refers to
FORMS = "an OpenCV or ROS calibration (.yml, .yaml), DexYCB's intrinsics (.yml), JSON, or a text of nine numbers, row by row"
MATRIX = (
    "camera_matrix",
    "cameraMatrix",
    "camera_matrix_left",
    "intrinsic_matrix",
    "intrinsics",
    "intrinsic",
    "K",
    "k",
    "mtx",
)
BENDS = (
    "distortion_coefficients",
    "distortionCoefficients",
    "dist_coeffs",
    "distCoeffs",
    "distortion",
    "coeffs",
    "dist",
    "D",
    "d",
)
MODEL = ("distortion_model", "distortionModel", "model", "camera_model")
WIDTH = ("image_width", "imageWidth", "width")
HEIGHT = ("image_height", "imageHeight", "height")
NESTED = ("color", "rgb", "camera", "intrinsics", "intrinsic")  # sections that hold the rest


@dataclass(frozen=True)
class Camera:
    """A calibrated camera.

    Attributes:
        intrinsics: float64 [3, 3], px.
        lens: what its distortion is; None for a pinhole camera.
        size: (height, width) of the calibration's pictures, px; None where nobody says.
    """

    intrinsics: np.ndarray
    lens: Lens | None = None
    size: tuple[int, int] | None = None

    def of_picture(self, height: int, width: int, name: str = "intrinsics") -> np.ndarray:
        """K [3, 3] (px) of a picture of this size: that of the calibration, or scaled with the picture.

        Raises:
            InputError: the picture has another shape than the calibration's, so that it was cropped or turned.
        """
        if self.size is None or self.size == (height, width):
            return self.intrinsics
        down, across = height / self.size[0], width / self.size[1]
        if abs(down / across - 1) > 0.01:
            raise InputError(
                f"{name}: the calibration is for pictures of {self.size[1]} x {self.size[0]} px, and this one has "
                f"{width} x {height} px, another shape; give the K of this picture"
            )
        k = self.intrinsics.copy()
        k[:2, 2] += 0.5  # pixel centres: x' = (x + 0.5) s - 0.5
        k[0] *= across
        k[1] *= down
        k[:2, 2] -= 0.5
        return k


def diagonal_camera(height: int, width: int, degrees: float = ASSUMED_FOV) -> np.ndarray:
    """float64 [3, 3], px: K of a picture with this field of view over its diagonal, centred, with square pixels."""
    return _centred(math.hypot(height, width) / 2 / math.tan(math.radians(degrees) / 2), height, width)


def _centred(focal: float, height: int, width: int) -> np.ndarray:
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def exif_camera(path: str | PathLike, height: int, width: int) -> np.ndarray | None:
    """K [3, 3] (px) from the focal length in EXIF (35 mm equivalent, over the diagonal); None where the file has none."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            length = float(picture.getexif().get_ifd(0x8769).get(0xA405, 0))
    except Exception:  # what a damaged file holds can raise almost anything
        return None
    return _centred(length / FULL_FRAME * math.hypot(height, width), height, width) if 5 <= length <= 2000 else None


def as_camera(given: object, distortion: object = None) -> Camera | None:
    """The camera that ``given`` stands for; None for None.

    Args:
        given: a :class:`Camera`, the path of a calibration file, K as [3, 3] or nine numbers, or (fx, fy, cx, cy); px.
        distortion: as :func:`amt.infer.lens.as_lens` takes it; it comes before the file's own.

    Raises:
        InputError: what is given is no camera; FileError: a file that cannot be read.
    """
    lens = as_lens(distortion)
    if given is None or isinstance(given, Camera):
        found = given
    elif isinstance(given, (str, PathLike)):
        found = read_calibration(given)
    else:
        found = Camera(_matrix(given))
    if lens is None or found is None:
        return found
    return Camera(found.intrinsics, lens, found.size)


def _matrix(given: object) -> np.ndarray:
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    try:
        numbers = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"intrinsics: expected numbers [3, 3] in px, got {given!r}") from None
    if numbers.shape == (4,):
        fx, fy, cx, cy = numbers
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if numbers.shape == (9,):
        return numbers.reshape(3, 3)
    if numbers.shape != (3, 3):
        raise InputError(
            f"intrinsics: expected [3, 3], nine numbers, (fx, fy, cx, cy) or a calibration file, got {list(numbers.shape)}"
        )
    return numbers


def read_calibration(path: str | PathLike) -> Camera:
    """The camera of a calibration file: OpenCV's or ROS's YAML, DexYCB's, JSON, or a text of nine numbers.

    Raises:
        FileError: it is missing, or holds no camera matrix that is understood.
    """
    path = Path(path)
    try:
        data = read_file(path, MOST_TEXT)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", f"give {FORMS}") from error
    text = data.decode("utf-8", "replace")
    numbers = _plain_numbers(text)
    if numbers is not None:
        return _checked(path, numbers)
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FileError(path, f"is not JSON ({type(error).__name__})", f"give {FORMS}") from error
    else:
        # OpenCV writes a header and tags of its own
        text = re.sub(r"\A%YAML[^\n]*\n", "", text).replace("!!opencv-matrix", "")
        content = parse_yaml(path, text.encode())
    return _of_mapping(path, content)


def _plain_numbers(text: str) -> np.ndarray | None:
    words = re.split(r"[\s,;\[\]]+", text.strip(" \t\r\n,;[]"))
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None


def _of_mapping(path: Path, content: Mapping) -> Camera:
    sections = [content, *(content[name] for name in NESTED if isinstance(content.get(name), Mapping))]
    for section in sections:
        found = _focal(section)
        matrix = _numbers(_first(section, MATRIX)) if found is None else found
        if matrix is None or matrix.size not in (4, 9):
            continue
        width, height = (_first(section, names) or _first(content, names) for names in (WIDTH, HEIGHT))
        size = (
            (int(height), int(width)) if isinstance(width, (int, float)) and isinstance(height, (int, float)) else None
        )
        return _checked(path, matrix, _lens(path, section, content), size)
    raise FileError(path, "holds no camera matrix", f"give {FORMS}")


def _focal(section: Mapping) -> np.ndarray | None:
    """(fx, fy, cx, cy) where they are written one by one, as DexYCB and RealSense do."""
    for names in (("fx", "fy", "ppx", "ppy"), ("fx", "fy", "cx", "cy")):
        found = _numbers([section.get(name) for name in names])
        if found is not None:
            return found
    return None


def _first(section: Mapping, names: tuple[str, ...]):
    return next((section[name] for name in names if section.get(name) is not None), None)


def _numbers(found: object) -> np.ndarray | None:
    """The numbers of a list, or of a matrix that is written as rows, cols and data."""
    if isinstance(found, Mapping):
        found = found.get("data")
    try:
        return np.asarray(found, np.float64).ravel() if isinstance(found, list) and None not in found else None
    except (TypeError, ValueError):
        return None


def _lens(path: Path, section: Mapping, content: Mapping) -> Lens | None:
    numbers = _numbers(_first(section, BENDS))
    numbers = _numbers(_first(content, BENDS)) if numbers is None else numbers
    if numbers is None or not numbers.size:
        return None
    name = next((m for m in (_first(section, MODEL), _first(content, MODEL)) if isinstance(m, str)), BROWN)
    model = next((NAMES[key] for key in (name.lower(), name.lower().split(".")[-1]) if key in NAMES), None)
    if model is None and re.search("inverse", name, re.IGNORECASE) and not numbers.any():
        return None  # a RealSense colour camera, which reports a model that it does not use
    if model is None:
        raise FileError(
            path, f"has the distortion model {name!r}", "brown (plumb_bob, rational_polynomial) and fisheye are known"
        )
    if any(content.get(key) in (1, True) for key in ("fisheye_model", "fisheye")):
        model = FISHEYE
    try:
        return as_lens((model, numbers))
    except InputError as error:
        raise FileError(path, f"holds a distortion that is not understood ({error})", "see --distortion") from error


def _checked(path: Path, numbers: np.ndarray, lens: Lens | None = None, size: tuple[int, int] | None = None) -> Camera:
    if numbers.size not in (4, 9) or not np.isfinite(numbers).all():
        raise FileError(path, f"holds {numbers.size} numbers that are no camera", f"give {FORMS}")
    k = _matrix(numbers.ravel())
    if (k[:2, 2] == 0).all() and k[2, :2].any() and k[2, 2] == 1:
        k = k.T  # Open3D writes its matrix column by column
    return Camera(k, lens, size)
