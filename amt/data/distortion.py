"""Brown and Conrady's model of a lens's distortion, as OpenCV and RealSense write it: k1, k2, p1, p2, k3, and k4, k5, k6."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FARTHEST = (
    1.2  # of x² + y²: beyond it the radial factor stays, so that what is far outside the picture does not fold back
)


def distorted(points: np.ndarray, coefficients: tuple[float, ...], farthest: float = FARTHEST) -> np.ndarray:
    """Where points [N, 2] of the plane z = 1 appear in that plane behind the lens, float64 [N, 2]. () changes nothing.

    Args:
        coefficients: 4, 5 or 8, in OpenCV's order; k4, k5 and k6 divide (the rational model).
        farthest: of x² + y²; beyond it the radial factor stays as it is there.
    """
    if not coefficients:
        return points
    k1, k2, p1, p2, *higher = coefficients
    k3, k4, k5, k6 = (*higher, 0.0, 0.0, 0.0, 0.0)[:4]
    x, y = points.T
    square = x * x + y * y
    near = np.minimum(square, farthest)
    radial = 1 + near * (k1 + near * (k2 + near * k3))
    if k4 or k5 or k6:
        radial = radial / (1 + near * (k4 + near * (k5 + near * k6)))
    part = np.minimum(1, farthest / np.maximum(square, 1e-12))  # far outside, the tangential part stops growing, too
    across, down = 2 * p1 * x * y + p2 * (square + 2 * x * x), p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return np.stack((x * radial + part * across, y * radial + part * down), 1)


def undistorted(points: np.ndarray, coefficients: tuple[float, ...], farthest: float = FARTHEST) -> np.ndarray:
    """The inverse of :func:`distorted`, to 1e-10, by fixed-point iteration."""
    found = points
    for _ in range(60):
        error = distorted(found, coefficients, farthest) - points
        found = found - error
        if np.abs(error).max(initial=0) < 1e-11:
            break
    return found


@lru_cache(maxsize=16)
def pinhole_maps(intrinsics: bytes, coefficients: tuple[float, ...], height: int, width: int) -> np.ndarray:
    """float32 [H, W, 2]: the pixel of a distorted picture that a pinhole camera with the same K (float64 bytes) sees."""
    k = np.frombuffer(intrinsics, np.float64).reshape(3, 3)
    focal, centre = np.diag(k)[:2], k[:2, 2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    pixels = distorted((grid - centre) / focal, coefficients) * focal + centre
    return pixels.reshape(height, width, 2).astype(np.float32)
