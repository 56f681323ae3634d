"""A robot's hand in pictures: over the image, and turned in 3D beside the person's joints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amt.draw.hand_object import HandObject
from amt.draw.paint import DARK, Colour, Layer, paint_mesh, paint_skeleton, write
from amt.draw.scene import View, camera_view

STEEL: Colour = (150, 168, 190)
SPAN = 0.32  # m: width of the turned view
TURN = 0.9  # rad/s

Mesh = tuple[np.ndarray, np.ndarray]  # vertices [V, 3], m, the camera's frame; triangles [F, 3]


def robot_column(
    image: np.ndarray, scenes: Sequence[HandObject], meshes: Sequence[Mesh | None], height: int, time_s: float
) -> np.ndarray:
    """A column uint8 [height, W, 3] to put at a film's right: the robot over the image, and below it turned in 3D.

    Args:
        image: uint8 [H, W, 3], RGB.
        scenes: the hands; the first with a robot is the one that is turned.
        meshes: the robot's hand that follows each; None where there is none.
        time_s: turns the view.
    """
    import cv2

    upper = height // 2
    zoom = upper / image.shape[0]
    width = round(image.shape[1] * zoom)
    over = cv2.resize(image, (width, upper), interpolation=cv2.INTER_AREA)
    lower = np.full((height - upper, width, 3), 255, np.uint8)
    shown = [(scene, mesh) for scene, mesh in zip(scenes, meshes) if mesh is not None]
    for scene, mesh in shown:
        k = np.asarray(scene.intrinsics, np.float64).copy()
        k[:2, :2] *= zoom
        k[:2, 2] = (k[:2, 2] + 0.5) * zoom - 0.5
        _draw(over, mesh, camera_view(k, scene.lens), 0.85)
    if shown:
        scene, mesh = shown[0]
        view = _turned(mesh[0].mean(0), TURN * time_s, width, height - upper)
        _draw(lower, mesh, view, 1.0)
        bones = Layer(*lower.shape[:2])
        paint_skeleton(bones, view(scene.joints)[0], max(1.0, upper / 320))
        bones.over(lower, 0.8)
    write(lower, "robot", (8, 6), DARK, max(12, height // 40), bold=True)
    return np.concatenate((over, lower))


def _draw(picture: np.ndarray, mesh: Mesh, view: View, alpha: float) -> None:
    pixels, seen = view(mesh[0])
    if not np.isfinite(pixels).all():
        return
    layer = Layer(*picture.shape[:2])
    paint_mesh(layer, pixels, seen, mesh[1], np.tile(np.array(STEEL, float), (len(pixels), 1)))
    layer.over(picture, alpha)


def _turned(middle: np.ndarray, angle: float, width: int, height: int) -> View:
    """Without perspective, from a place that goes around the vertical axis."""
    zoom = min(width, height) / SPAN
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array(((c, 0, s), (0, 1, 0), (-s, 0, c)))

    def view(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = (np.asarray(points, np.float64) - middle) @ turn.T
        return seen[:, :2] * zoom + (np.array((width, height)) - 1) / 2, seen

    return view
