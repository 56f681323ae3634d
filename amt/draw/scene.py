"""One scene drawn through one view, a camera's or any other: mesh, bones, object and contacts, far things first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amt.draw.hand_object import CONTACT_THRESHOLD, HandObject, Lens
from amt.draw.paint import DARK, Colour, Layer, paint_box, paint_mesh, paint_skeleton
from amt.hand.camera import project
from amt.hand.skeleton import BONES

SKIN: Colour = (196, 222, 250)
TOUCHING: Colour = (255, 40, 105)
OBJECT: Colour = (0, 214, 201)
OUTLINE: Colour = (250, 252, 255)
GREY: Colour = (120, 124, 134)

# A view maps points [N, 3] (m, camera frame) to pixels [N, 2] and to the viewer's own frame [N, 3].
View = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_scene(picture: np.ndarray, scene: HandObject, view: View, scale: float, outline: Colour = OUTLINE) -> None:
    """Draws a scene over ``picture`` (uint8 [H, W, 3]) in place; ``scale`` widens strokes and dots.

    What cannot be seen, because it is not finite or lies behind the viewer, is left out. Where no hand was found, nothing is
    drawn.
    """
    if not scene.hand_found:
        return
    height, width = picture.shape[:2]

    def layer() -> Layer:
        return Layer(height, width)

    corners = None
    if scene.has_object:
        corners = view(scene.object_box)[0]
        behind = layer()
        paint_box(behind, corners, OBJECT, scale, front=False)
        behind.over(picture, 0.6)
        _draw_object_points(layer(), picture, scene, view, scale, touching=False)

    if scene.vertices is not None:
        pixels, seen = view(scene.vertices)
        if np.isfinite(pixels).all():
            mesh = layer()
            paint_mesh(mesh, pixels, seen, scene.faces, vertex_colours(scene))
            mesh.over(picture, 0.62)
            mesh.outline(outline, 1.0 * scale).over(picture, 0.9)

    if corners is not None:
        front = layer()
        paint_box(front, corners, OBJECT, scale, front=True)
        front.over(picture, 0.9)
        _draw_object_points(layer(), picture, scene, view, scale, touching=True)
    bones = layer()
    paint_skeleton(bones, view(scene.joints)[0], scale)
    bones.over(picture, 0.95)


def draw_shadow(picture: np.ndarray, scene: HandObject, view: View, scale: float) -> None:
    """A scene in grey: contour of the hand, bones, and the object's box."""
    mesh, lines = Layer(*picture.shape[:2]), Layer(*picture.shape[:2])
    if scene.vertices is not None:
        pixels, seen = view(scene.vertices)
        paint_mesh(mesh, pixels, seen, scene.faces, np.full((len(pixels), 3), 190.0))
    joints = view(scene.joints)[0]
    lines.lines(joints[np.array(BONES)], [GREY] * len(BONES), 1.5 * scale)
    if scene.has_object:
        corners = view(scene.object_box)[0]
        for front in (False, True):
            paint_box(lines, corners, GREY, 0.8 * scale, front)
    mesh.over(picture, 0.45)
    mesh.outline(GREY, scale).over(picture, 0.9)
    lines.over(picture, 0.8)


def camera_view(intrinsics: np.ndarray, lens: Lens | None = None) -> View:
    """The view of the camera with K [3, 3], behind a lens with distortion; points behind it have no pixel (NaN)."""

    def view(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = np.asarray(points, np.float64)
        k = np.asarray(intrinsics, np.float64)
        pixels = project(points, k).numpy() if lens is None else lens.plane(points) @ k[:2, :2].T + k[:2, 2]
        return np.where(points[:, 2:] > 0, pixels, np.nan), points

    return view


def _draw_object_points(
    layer: Layer, picture: np.ndarray, scene: HandObject, view: View, scale: float, touching: bool
) -> None:
    """The object's points that touch the hand, large and red, or all the others."""
    pixels = view(scene.in_camera(scene.object_points))[0]
    chosen = np.zeros(len(pixels), bool) if scene.object_contact is None else scene.object_contact > CONTACT_THRESHOLD
    pixels = pixels[chosen == touching]
    styles = ((DARK, 2.6), (TOUCHING, 1.8)) if touching else ((OBJECT, 1.0),)
    for colour, radius in styles:
        layer.dots(pixels, [colour] * len(pixels), radius * scale)
    layer.over(picture, 0.9 if touching else 0.7)


def vertex_colours(scene: HandObject, skin: Colour = SKIN) -> np.ndarray:
    """[V, 3], RGB: the hand's, running into red where it touches the object."""
    if scene.hand_contact is None:
        return np.tile(np.array(skin, float), (len(scene.vertices), 1))
    weight = np.clip((np.asarray(scene.hand_contact, float) - 0.25) / 0.5, 0, 1)[:, None]
    return (1 - weight) * np.array(skin, float) + weight * np.array(TOUCHING, float)


def point_colours(scene: HandObject, colour: Colour = OBJECT) -> np.ndarray:
    """uint8 [P, 3], RGB: the object's points, red where they touch the hand."""
    colours = np.tile(np.uint8(colour), (len(scene.object_points), 1))
    if scene.object_contact is not None:
        colours[np.asarray(scene.object_contact) > CONTACT_THRESHOLD] = TOUCHING
    return colours


def extent_points(scene: HandObject) -> np.ndarray:
    """[N, 3], m: all that a picture of the scene should hold; none where no hand was found."""
    if not scene.hand_found:
        return np.zeros((0, 3), np.float32)
    points = [scene.joints] if scene.vertices is None else [scene.joints, scene.vertices]
    if scene.has_object:
        points.append(scene.object_box)
    return np.concatenate(points)
