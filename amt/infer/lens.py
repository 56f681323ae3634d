"""Lenses with distortion: where a ray appears in the picture, which ray a pixel saw, and the crop as a pinhole camera sees it.

The network knows pinhole cameras only. So a crop of a distorted picture is taken along the rays of a pinhole camera, and the
joints that come back are projected through the lens again. No picture is undistorted as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amt.data.distortion import distorted, undistorted
from amt.infer.checks import InputError

BROWN, FISHEYE = "brown", "fisheye"
NAMES = {  # what calibration files call the two models
    "brown": BROWN, "brown_conrady": BROWN, "plumb_bob": BROWN, "rational_polynomial": BROWN, "pinhole": BROWN, "radtan": BROWN,
    "fisheye": FISHEYE, "equidistant": FISHEYE, "kannala_brandt": FISHEYE, "kannala_brandt4": FISHEYE, "equi": FISHEYE,
}  # fmt: skip
COUNTS = {BROWN: (4, 5, 8), FISHEYE: (4,)}
LARGEST_ANGLE = 60.0  # degrees from the crop's centre to its border
_FORMS = (
    "expected k1, k2, p1, p2[, k3[, k4, k5, k6]] (Brown and Conrady, OpenCV's order) or "
    "fisheye:k1,k2,k3,k4 (Kannala and Brandt)"
)


@dataclass(frozen=True)
class Lens:
    """A lens that bends rays, as OpenCV defines it.

    ``brown``: x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶) + 2 p1 x y + p2 (r² + 2 x²), and y' likewise.
    ``fisheye``: θ' = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) for a ray θ off the optical axis (Kannala and Brandt, 2006).
    Beyond the angle at which such a polynomial turns back, where no lens is calibrated, it is continued without turning.

    Raises:
        InputError: an unknown model, or coefficients of another number or that are not finite.
    """

    model: str
    coefficients: tuple[float, ...]

    def __post_init__(self):
        if self.model not in COUNTS:
            raise InputError(f"distortion: expected the model {BROWN} or {FISHEYE}, got {self.model!r}")
        if len(self.coefficients) not in COUNTS[self.model] or not np.isfinite(self.coefficients).all():
            raise InputError(f"distortion: {_FORMS}; got {list(self.coefficients)} for {self.model}")

    def plane(self, points: np.ndarray) -> np.ndarray:
        """float64 [N, 2]: where points [N, 3] (camera frame, any unit) appear in the plane z = 1, behind the lens."""
        points = np.asarray(points, np.float64)
        if self.model == FISHEYE:
            radius = np.hypot(points[:, 0], points[:, 1])
            bent = self._bent(np.arctan2(radius, points[:, 2]))
            return points[:, :2] * (bent / np.maximum(radius, 1e-12))[:, None]
        return distorted(points[:, :2] / np.maximum(points[:, 2:], 1e-6), self.coefficients, self._farthest)

    def rays(self, plane: np.ndarray) -> np.ndarray:
        """float64 [N, 3]: the unit rays that appear at ``plane`` [N, 2].

        Raises:
            InputError: the lens shows nothing there.
        """
        plane = np.asarray(plane, np.float64)
        if self.model == FISHEYE:
            radius = np.linalg.norm(plane, axis=1)
            angle = np.interp(radius, self._table[1], self._table[0])
            for _ in range(4):  # Newton's steps, from a table that is off by 1e-6 rad at most
                slope = (self._bent(angle + 1e-6) - self._bent(angle - 1e-6)) / 2e-6
                angle = angle - (self._bent(angle) - radius) / np.maximum(slope, 1e-3)
            shown = np.stack((*(plane * (np.sin(angle) / np.maximum(radius, 1e-12))[:, None]).T, np.cos(angle)), 1)
        else:
            flat = undistorted(plane, self.coefficients, self._farthest)
            shown = np.column_stack((flat, np.ones(len(flat))))
        off = np.abs(self.plane(shown) - plane).max(initial=0)
        if not off < 1e-6:
            raise InputError(
                f"distortion: {list(self.coefficients)} shows nothing at a pixel that is needed; check them"
            )
        return shown / np.linalg.norm(shown, axis=1, keepdims=True)

    @cached_property
    def _farthest(self) -> float:
        """Brown: x² + y² from which on the radial factor turns back; at most 25, which is 79 degrees off the axis."""
        radius = np.linspace(0, 5, 2001)
        bent = distorted(np.stack((radius, 0 * radius), 1), self.coefficients, 25.0)[:, 0]
        turns = np.flatnonzero(np.diff(bent) <= 0)
        return float(radius[turns[0]] ** 2) if len(turns) else 25.0

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Fisheye: angles (rad) and what becomes of them, as far as that grows."""
        angles = np.linspace(0, math.pi, 3142)
        bent = self._polynomial(angles)
        turns = np.flatnonzero(np.diff(bent) <= 0)
        end = turns[0] + 1 if len(turns) else len(angles)
        return angles[:end], bent[:end]

    def _polynomial(self, angle: np.ndarray) -> np.ndarray:
        k1, k2, k3, k4 = self.coefficients
        square = angle * angle
        return angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))

    def _bent(self, angle: np.ndarray) -> np.ndarray:
        last = self._table[0][-1]
        return self._polynomial(np.minimum(angle, last)) + np.maximum(angle - last, 0)

    def record(self) -> dict:
        """For JSON: the model and its coefficients."""
        return {"model": self.model, "coefficients": list(self.coefficients)}


def as_lens(given: object) -> Lens | None:
    """The lens that ``given`` stands for; None where it bends nothing.

    Args:
        given: None, a :class:`Lens`, 4, 5 or 8 numbers in OpenCV's order (Brown and Conrady), "fisheye:k1,k2,k3,k4",
            ("fisheye", numbers) or {"model": name, "coefficients": numbers}.

    Raises:
        InputError: anything else.
    """
    if given is None or isinstance(given, Lens):
        return given
    model, numbers = BROWN, given
    if isinstance(given, str):
        name, _, text = given.rpartition(":")
        model, numbers = name or BROWN, text.split(",")
    elif isinstance(given, Mapping):
        model, numbers = given.get("model", BROWN), given.get("coefficients", ())
    elif isinstance(given, Sequence) and len(given) == 2 and isinstance(given[0], str):
        model, numbers = given
    if not isinstance(model, str) or model.lower() not in NAMES:
        raise InputError(f"distortion: {_FORMS}; got the model {model!r}")
    model = NAMES[model.lower()]
    if hasattr(numbers, "detach"):
        numbers = numbers.detach().cpu().numpy()
    try:
        values = np.asarray(numbers, np.float64).ravel()
    except (TypeError, ValueError):
        raise InputError(f"distortion: {_FORMS}; got {given!r}") from None
    if model == BROWN and len(values) in (12, 14) and not values[8:].any():
        values = values[:8]  # OpenCV's thin prism and tilt, which are not there
    if not len(values) or (model == BROWN and not values.any()):
        return None
    return Lens(model, tuple(values.tolist()))


@dataclass(frozen=True)
class LensCrop:
    """A crop that a pinhole camera in the lens's place would have taken."""

    image: np.ndarray  # uint8 [size, size, 3]
    intrinsics: np.ndarray  # float64 [3, 3], px: K of the crop
    rotation: np.ndarray  # float64 [3, 3]: from the picture's camera to the crop's


def cut_through(image: np.ndarray, intrinsics: np.ndarray, lens: Lens, box: np.ndarray, size: int) -> LensCrop:
    """The square ``box`` (cx, cy, side; px of the picture) as a pinhole camera sees it, ``size`` x ``size`` px.

    A Brown lens's crop keeps the picture's optical axis. A fisheye lens's camera looks at the middle of the box, because far from
    the axis a plane would be stretched without end; its border is at most 60 degrees from there.

    Args:
        image: uint8 [H, W, 3].
        intrinsics: [3, 3], px: K of the picture.
    """
    import cv2

    from amt.data.crops import cut  # brings PyTorch, which a wrong word of a command line need not wait for
    from amt.hand.camera import crop_camera

    k = np.asarray(intrinsics, np.float64)
    cx, cy, half = box[0], box[1], box[2] / 2
    marks = np.array([(cx, cy), (cx - half, cy), (cx + half, cy), (cx, cy - half), (cx, cy + half)])
    rays = lens.rays(_solve(k, marks))
    rotation = _towards(rays[0]) if lens.model == FISHEYE else np.eye(3)
    seen = rays @ rotation.T
    slopes = seen[:, :2] / np.maximum(seen[:, 2:], 1e-6)
    widest = math.tan(math.radians(LARGEST_ANGLE))
    extent = min(float((slopes[2, 0] - slopes[1, 0] + slopes[4, 1] - slopes[3, 1]) / 2), 2 * widest)
    focal = size / extent
    cropped = np.array([[focal, 0, 0], [0, focal, 0], [0, 0, 1.0]])
    cropped[:2, 2] = (size - 1) / 2 - focal * slopes[0]

    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    ahead = np.column_stack(((grid - cropped[:2, 2]) / focal, np.ones(len(grid)))) @ rotation
    at = lens.plane(ahead) @ k[:2, :2].T + k[:2, 2]
    square = np.array((cx, cy, 1.5 * box[2]))
    if square[2] > 2 * size:  # averaged down first, so that nothing aliases
        warp = crop_camera(np.eye(3), square, 2 * size)[1].numpy()
        image, at = cut(image, warp, 2 * size), at @ warp[:, :2].T + warp[:, 2]
    at = at.astype(np.float32).reshape(size, size, 2)
    picture = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    return LensCrop(picture, cropped, rotation)


def project_through(points: np.ndarray, intrinsics: np.ndarray, lens: Lens) -> np.ndarray:
    """float64 [N, 2], px: where points [N, 3] (m, camera frame) appear in the distorted picture."""
    k = np.asarray(intrinsics, np.float64)
    return lens.plane(points) @ k[:2, :2].T + k[:2, 2]


def _solve(k: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """float64 [N, 2]: pixels [N, 2] in the plane z = 1, lens and all."""
    return np.linalg.solve(k[:2, :2], (pixels - k[:2, 2]).T).T


def _towards(ray: np.ndarray) -> np.ndarray:
    """[3, 3]: the smallest rotation that brings a unit ray onto the optical axis."""
    x, y, z = ray
    if z < -0.999999:
        return np.diag((1.0, -1.0, -1.0))
    a = 1 / (1 + z)
    return np.array([[1 - a * x * x, -a * x * y, -x], [-a * x * y, 1 - a * y * y, -y], [x, y, z]])
