"""Pictures of what was predicted: over the image, beside the truth, and from the side, where depth shows.

``overlay`` draws a scene over its image; ``panel`` puts a close-up of the prediction, of the truth and the view from the
side in one strip; ``sheet`` joins strips into one picture; ``film`` is a frame of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amt.data.crops import centred_square, square_around
from amt.draw.hand_object import HandObject, errors
from amt.draw.paint import DARK, Colour, text_width, write
from amt.draw.scene import GREY, camera_view, draw_scene, draw_shadow, extent_points
from amt.hand.camera import crop_camera

PAPER: Colour = (255, 255, 255)
GRID: Colour = (226, 229, 234)

GRID_STEP = 0.05  # m
CAPTION = 44  # px of height under each strip
NO_HAND = "no hand found"


def overlay(image: np.ndarray, scene: HandObject, truth: HandObject | None = None, *, scale: float = 1.0) -> np.ndarray:
    """A copy of the image with the scene drawn over it; with the truth, a second one to its right.

    Drawn are the hand's mesh (translucent, with its contour), the skeleton in the fingers' colours, the object's oriented
    box and points, and in red what touches, on the hand and on the object. Pixels beyond the drawing are not changed.

    Args:
        image: uint8 [H, W, 3], RGB, to which ``scene.intrinsics`` belong.
        scene: what to draw.
        truth: drawn over a copy of the image, to be put at the right.
        scale: widens strokes and dots.
    """
    picture = np.array(image)
    draw_scene(picture, scene, camera_view(scene.intrinsics, scene.lens), scale)
    if truth is None:
        return picture
    return np.concatenate((picture, overlay(image, truth, scale=scale)), axis=1)


def close_up(image: np.ndarray, scene: HandObject, box: np.ndarray, size: int = 480) -> np.ndarray:
    """``overlay`` of the square ``box`` (cx, cy, side in px) alone, enlarged to size x size px before it is drawn on."""
    intrinsics, warp = crop_camera(np.asarray(scene.intrinsics, np.float64), np.asarray(box, np.float64), size)
    picture = _enlarge(image, warp.numpy(), size)
    draw_scene(picture, scene, camera_view(intrinsics.numpy(), scene.lens), scale=size / 320)
    return picture


def side_view(
    scene: HandObject, truth: HandObject | None = None, size: int = 480, span: float | None = None
) -> np.ndarray:
    """The scene from the camera's right, without perspective: depth runs to the right, on a grid of 5 cm.

    The truth is drawn in grey in the same place, so that an error in depth is seen as what it is. ``span`` is the width
    that is shown, in metres; by default all that there is.
    """
    shown = [s for s in (scene, truth) if s is not None]
    points = np.concatenate([extent_points(s) for s in shown])
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        points = np.zeros((1, 3))
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    if span is None:
        span = max(float((high - low)[1:].max()) * 1.2, 0.2)
    zoom = size / span

    def view(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = np.stack((points[:, 2] - middle[2], points[:, 1] - middle[1], -points[:, 0]), axis=1)
        return seen[:, :2] * zoom + (size - 1) / 2, seen

    picture = np.empty((size, size, 3), np.uint8)
    _draw_grid(picture, middle, span, size)
    if truth is not None:
        draw_shadow(picture, truth, view, size / 480)
    draw_scene(picture, scene, view, size / 320, outline=DARK)
    return picture


def panel(
    image: np.ndarray,
    scene: HandObject,
    truth: HandObject | None = None,
    *,
    box: np.ndarray | None = None,
    title: str = "",
    size: int = 480,
    vertical: bool = False,
) -> np.ndarray:
    """A strip: the prediction close up, the truth beside it where it is known, the view from the side; a caption below.

    Args:
        image: uint8 [H, W, 3], RGB.
        scene, truth: what to draw.
        box: the square to show (cx, cy, side in px); by default that of :func:`shown_box`.
        title: first words of the caption.
        size: side of each tile, px.
        vertical: tiles under each other rather than side by side.
    """
    if box is None:
        box = shown_box([s for s in (scene, truth) if s is not None], image.shape)
    tiles = [_label(close_up(image, scene, box, size), "prediction" if scene.hand_found else NO_HAND)]
    if truth is not None:
        tiles.append(_label(close_up(image, truth, box, size), "truth"))
    tiles.append(_label(side_view(scene, truth, size), "from the side", dark=True))
    strip = _join(tiles, axis=0 if vertical else 1)
    return np.concatenate((strip, _caption(strip.shape[1], title, scene, truth)))


def film(image: np.ndarray, scene: HandObject | Sequence[HandObject], truth: HandObject | None = None) -> np.ndarray:
    """A frame of a video: the whole image with the scene over it, and the view from the side, 40 cm wide, at its right.

    Of several scenes all are drawn over the image, and the first is seen from the side.
    """
    height = image.shape[0]
    if not isinstance(scene, HandObject):
        scene, *others = scene
        for other in others:
            image = overlay(image, other, scale=max(1.0, height / 640))
    side = _label(side_view(scene, truth, height, span=0.4), "from the side", dark=True)
    picture = overlay(image, scene, scale=max(1.0, height / 640))
    return np.concatenate((picture if scene.hand_found else _label(picture, NO_HAND), side), axis=1)


def shown_box(scenes: Sequence[HandObject], shape: tuple[int, ...]) -> np.ndarray:
    """A square (cx, cy, side; px) that shows the hands, and the objects as far as they need no more than twice the space.

    ``shape`` is the image's; the square is not larger than the image is high or wide.
    """
    hands, all_ = [], []
    for scene in (s for s in scenes if s.hand_found):
        view = camera_view(scene.intrinsics, scene.lens)
        cx, cy, side = square_around(view(scene.joints)[0])
        hands += [(cx - side / 2, cy - side / 2), (cx + side / 2, cy + side / 2)]
        if scene.has_object:
            all_ += list(view(scene.object_box)[0])
    if not hands:
        return centred_square(*shape[:2])
    square, both = _square(hands), _square(hands + all_)
    share = min(1.0, square[2] / max(both[2] - square[2], 1e-6)) if np.isfinite(both).all() else 0.0
    if share:
        square = square + share * (both - square)
    if not np.isfinite(square).all():
        return centred_square(*shape[:2])
    return np.array((square[0], square[1], np.clip(square[2], 8, max(shape[:2]))))


def _square(pixels: Sequence) -> np.ndarray:
    """The smallest square (cx, cy, side) with pixels [N, 2] in it; not finite where one of them is not."""
    low, high = np.min(pixels, axis=0), np.max(pixels, axis=0)
    return np.array((*((low + high) / 2), (high - low).max()))


def sheet(panels: Sequence[np.ndarray], columns: int = 1, gap: int = 16) -> np.ndarray:
    """Pictures of one size in a grid on white, row by row.

    Raises ValueError where there is nothing to show.
    """
    if not panels:
        raise ValueError("panels: expected at least one picture, got none")
    height, width = (max(p.shape[axis] for p in panels) for axis in (0, 1))
    rows = -(-len(panels) // columns)
    page = np.full((rows * height + (rows - 1) * gap, columns * width + (columns - 1) * gap, 3), PAPER, np.uint8)
    for i, p in enumerate(panels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        page[top : top + p.shape[0], left : left + p.shape[1]] = p
    return page


def _draw_grid(picture: np.ndarray, middle: np.ndarray, span: float, size: int) -> None:
    """Fills a picture: paper, lines every 5 cm, and the distance from the camera along the lower edge."""
    labels, ruled = [], []
    for axis in (2, 1):
        first, last = (np.array((-0.5, 0.5)) * span + middle[axis]) / GRID_STEP
        steps = np.arange(int(np.ceil(first)), int(np.floor(last)) + 1)
        places = (steps * GRID_STEP - middle[axis]) * size / span + (size - 1) / 2
        ruled.append(_ruled(places, size))
        if axis == 2:
            labels = list(zip(places, steps * GRID_STEP))
    columns, rows = ruled
    picture[:] = columns
    for row in np.flatnonzero((rows < columns.max(0)).any(1)):  # the few that a line darkens
        np.minimum(picture[row], rows[row], out=picture[row])
    write(picture, "◂ camera", (size - 8, size // 60 + 4), GREY, max(11, size // 36), anchor="ra")
    every = max(1, -(-len(labels) // 5))
    for at, depth in labels[::every]:
        if 24 < at < size - 30:
            write(picture, f"{100 * depth:.0f} cm", (int(at), size - 6), GREY, max(11, size // 36), anchor="ms")


def _ruled(places: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, 3]: a row of white pixels with a line of 1 px at each place, shared by the two pixels that it lies on."""
    cover, first = np.zeros(size + 1), np.floor(places).astype(int)
    for pixel, share in ((first, first + 1 - places), (first + 1, places - first)):
        np.add.at(cover, np.where((pixel >= 0) & (pixel < size), pixel, size), share)
    cover = np.clip(cover[:size, None], 0, 1)
    return np.uint8(np.round(cover * GRID + (1 - cover) * PAPER))


def _enlarge(image: np.ndarray, warp: np.ndarray, size: int) -> np.ndarray:
    import cv2

    shrinks = abs(np.linalg.det(warp[:, :2])) < 1
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.warpAffine(
        image, warp, (size, size), flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=(32, 34, 40)
    )


def _label(tile: np.ndarray, text: str, dark: bool = False) -> np.ndarray:
    size = max(12, tile.shape[0] // 26)
    if dark:
        write(tile, text, (size // 2, size // 3), DARK, size, bold=True)
        return tile
    plate = tile[: int(1.9 * size), : int(text_width(text, size, bold=True)) + size]
    plate[:] = (plate * 0.35).astype(np.uint8)
    write(tile, text, (size // 2, size // 3), (255, 255, 255), size, bold=True)
    return tile


def _join(tiles: Sequence[np.ndarray], axis: int, gap: int = 4) -> np.ndarray:
    shape = list(tiles[0].shape)
    shape[axis] = gap
    spaced = [tiles[0]]
    for tile in tiles[1:]:
        spaced += [np.full(shape, PAPER, np.uint8), tile]
    return np.concatenate(spaced, axis=axis)


def _caption(width: int, title: str, scene: HandObject, truth: HandObject | None) -> np.ndarray:
    """A white strip with the title and, where the truth is known, the errors."""
    words = [title] if title else []
    if not scene.hand_found:
        words.append(NO_HAND)
    elif truth is not None:
        found = errors(scene, truth)
        words.append(f"joints {found['wrist_aligned_mm']:.1f} mm wrist-aligned, {found['absolute_mm']:.1f} mm absolute")
        if "object_adds_mm" in found:
            words.append(f"object ADD-S {found['object_adds_mm']:.1f} mm")
    else:
        words.append(f"wrist at {100 * scene.joints[0, 2]:.1f} cm")
    strip = np.full((CAPTION, width, 3), PAPER, np.uint8)
    write(strip, "   ·   ".join(words), (8, CAPTION // 2), DARK, 16, anchor="lm")
    return strip
