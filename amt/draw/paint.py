"""Drawing primitives: shaded meshes, bones, boxes, dots and text, anti-aliased and with transparency.

Everything is drawn on a layer of twice the picture's resolution, reduced by area averaging and then blended over the
picture: lines stay crisp, and the photograph beneath is never resampled. Colours are RGB. Pixels follow the camera's
convention, the centre of the top-left pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from amt.hand.skeleton import FINGER_JOINTS, PARENTS

SUPERSAMPLING = 2
_SUBPIXEL_BITS = 4
_LIGHT = np.array(
    (-0.40, -0.62, -0.67)
)  # from the upper left, behind the viewer; x right, y down, z away from the viewer

Colour = tuple[int, int, int]
FINGER_COLOURS: dict[str, Colour] = {
    "thumb": (245, 122, 38),
    "index": (250, 208, 52),
    "middle": (66, 184, 100),
    "ring": (45, 140, 240),
    "little": (158, 92, 230),
}
WRIST_COLOUR: Colour = (245, 245, 245)
DARK: Colour = (24, 26, 32)
JOINT_COLOURS: tuple[Colour, ...] = tuple(
    next((FINGER_COLOURS[f] for f, joints in FINGER_JOINTS.items() if joint in joints), WRIST_COLOUR)
    for joint in range(len(PARENTS))
)


@dataclass
class Layer:
    """A transparent sheet over a picture of ``height`` x ``width`` px. Draw on it, then :meth:`over` blends it."""

    height: int
    width: int
    colour: np.ndarray = field(init=False, repr=False)  # uint8 [2H, 2W, 3], black where nothing is drawn
    cover: np.ndarray = field(init=False, repr=False)  # uint8 [2H, 2W], 255 where something is

    def __post_init__(self):
        size = (self.height * SUPERSAMPLING, self.width * SUPERSAMPLING)
        self.colour, self.cover = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)

    def line(self, start: np.ndarray, end: np.ndarray, colour: Colour, width: float = 1.0) -> None:
        """A straight stroke between two pixels [2]; ``width`` in px of the picture."""
        import cv2

        ends = [tuple(int(c) for c in _fixed(p)) for p in (start, end)]
        if not _drawable(np.array(ends)):
            return
        thickness = max(1, round(width * SUPERSAMPLING))
        cv2.line(self.colour, *ends, colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.line(self.cover, *ends, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def dot(self, centre: np.ndarray, colour: Colour, radius: float) -> None:
        """A filled circle around a pixel [2]; ``radius`` in px of the picture."""
        import cv2

        x, y = (int(c) for c in _fixed(centre))
        if not _drawable(np.array((x, y))):
            return
        r = max(1, round(radius * SUPERSAMPLING * (1 << _SUBPIXEL_BITS)))
        cv2.circle(self.colour, (x, y), r, colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.circle(self.cover, (x, y), r, 255, -1, cv2.LINE_AA, _SUBPIXEL_BITS)

    def polygons(self, corners: np.ndarray, colours: np.ndarray) -> None:
        """Convex polygons [N, K, 2] (px) filled in the order given, each in its colour [N, 3]."""
        import cv2

        fixed = _fixed(corners)
        drawable = _drawable(fixed.reshape(len(fixed), -1), axis=1)
        for polygon, colour in zip(fixed[drawable], np.asarray(colours)[drawable].tolist()):
            cv2.fillConvexPoly(self.colour, polygon, colour, cv2.LINE_8, _SUBPIXEL_BITS)
            cv2.fillConvexPoly(self.cover, polygon, 255, cv2.LINE_8, _SUBPIXEL_BITS)

    def outline(self, colour: Colour, width: float) -> Layer:
        """A new layer that holds the contour of all that this one covers, holes included."""
        import cv2

        result = Layer(self.height, self.width)
        edges, _ = cv2.findContours((self.cover > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        thickness = max(1, round(width * SUPERSAMPLING))
        cv2.polylines(result.colour, edges, True, colour, thickness, cv2.LINE_AA)
        cv2.polylines(result.cover, edges, True, 255, thickness, cv2.LINE_AA)
        return result

    def over(self, picture: np.ndarray, opacity: float = 1.0) -> None:
        """Blends this layer over ``picture`` (uint8 [H, W, 3]) in place; only covered pixels change."""
        import cv2

        ys, xs = np.flatnonzero(self.cover.any(1)), np.flatnonzero(self.cover.any(0))
        if not len(ys):
            return
        top, left = ys[0] // SUPERSAMPLING, xs[0] // SUPERSAMPLING
        bottom, right = ys[-1] // SUPERSAMPLING + 1, xs[-1] // SUPERSAMPLING + 1
        part = np.s_[top * SUPERSAMPLING : bottom * SUPERSAMPLING, left * SUPERSAMPLING : right * SUPERSAMPLING]
        size = (int(right - left), int(bottom - top))
        # Black where nothing is drawn: the reduced colour is premultiplied by the reduced cover.
        colour = cv2.resize(self.colour[part], size, interpolation=cv2.INTER_AREA).astype(np.float32)
        cover = cv2.resize(self.cover[part], size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
        under = picture[top:bottom, left:right]
        under[:] = np.clip(under * (1 - opacity * cover) + opacity * colour + 0.5, 0, 255).astype(np.uint8)


def paint_mesh(layer: Layer, pixels: np.ndarray, seen: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
    """Paints a shaded mesh back to front.

    Args:
        layer: what to draw on.
        pixels: [V, 2], px.
        seen: [V, 3], m: the vertices as the viewer sees them, x right, y down, z away from the viewer.
        faces: int [F, 3].
        colours: [V, 3], RGB 0-255.
    """
    corners = seen[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = np.zeros_like(seen)
    for corner in range(3):
        np.add.at(smooth, faces[:, corner], normals)
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True) + 1e-12
    shade = 0.66 + 0.42 * np.clip(smooth @ _LIGHT, -0.6, 1)
    painted = np.clip(np.asarray(colours, np.float64) * shade[:, None], 0, 255)
    # Each triangle in four, with colours of its own: as smooth to the eye as shading pixel by pixel.
    values = _quarter(np.concatenate((pixels, seen[:, 2:], painted), axis=1)[faces])
    values = values[np.argsort(-values[..., 2].mean(1))]
    layer.polygons(values[..., :2], values[..., 3:].mean(1))


def _quarter(corners: np.ndarray) -> np.ndarray:
    """Triangles [F, 3, N] cut at the middles of their sides, [4 F, 3, N]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.concatenate([np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def paint_skeleton(layer: Layer, pixels: np.ndarray, scale: float = 1.0, colour: Colour | None = None) -> None:
    """Bones and joints of a hand [21, 2] (px) in the fingers' colours, or all in one; ``scale`` widens the strokes."""
    for halo in (True, False):
        for joint, parent in enumerate(PARENTS):
            if parent >= 0:
                paint = DARK if halo else colour or JOINT_COLOURS[joint]
                layer.line(pixels[parent], pixels[joint], paint, (3.4 if halo else 2.0) * scale)
    for joint, pixel in enumerate(pixels):
        layer.dot(pixel, DARK, 3.4 * scale)
        layer.dot(pixel, colour or JOINT_COLOURS[joint], 2.5 * scale)


# Faces of a box by the corners of amt.hand.objects.box_corners, which go around each face.
BOX_FACES = np.array(((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)))
BOX_EDGES = tuple((a, a | bit) for bit in (4, 2, 1) for a in range(8) if not a & bit)


def paint_box(layer: Layer, pixels: np.ndarray, colour: Colour, scale: float = 1.0, front: bool = True) -> None:
    """The edges [8, 2] (px) of a box that face the viewer (``front``), or those behind."""
    quads = pixels[BOX_FACES]
    # Twice the signed area: BOX_FACES go counter-clockwise from outside, which is negative where y points down.
    area = np.sum(quads[:, :, 0] * np.roll(quads[:, :, 1], -1, 1) - quads[:, :, 1] * np.roll(quads[:, :, 0], -1, 1), 1)
    near = {
        frozenset((int(quad[i]), int(quad[(i + 1) % 4]))) for quad in BOX_FACES[area < 0] for i in range(4)
    }  # edges of at least one face that points to the viewer
    for start, end in BOX_EDGES:
        if (frozenset((start, end)) in near) == front:
            if front:
                layer.line(pixels[start], pixels[end], DARK, 3.0 * scale)
            layer.line(pixels[start], pixels[end], colour, (1.8 if front else 1.0) * scale)


def write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    colour: Colour = DARK,
    size: int = 16,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Writes one line of text into ``picture`` (uint8 [H, W, 3]) in place; ``anchor`` as in Pillow, "la" = left, top."""
    from PIL import Image, ImageDraw

    sheet = Image.fromarray(picture)
    ImageDraw.Draw(sheet).text(place, text, fill=colour, font=_font(size, bold), anchor=anchor)
    picture[:] = np.asarray(sheet)


def text_width(text: str, size: int = 16, bold: bool = False) -> float:
    """How wide :func:`write` makes a line, px."""
    return _font(size, bold).getlength(text)


@lru_cache(maxsize=16)
def _font(size: int, bold: bool):
    """DejaVu Sans, which matplotlib brings along."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Fixed-point coordinates on the supersampled layer, int32; far outside where not finite or out of range."""
    place = ((np.asarray(pixels, np.float64) + 0.5) * SUPERSAMPLING - 0.5) * (1 << _SUBPIXEL_BITS)
    limit = float(1 << 22)
    return np.clip(np.nan_to_num(np.round(place), nan=limit, posinf=limit, neginf=-limit), -limit, limit).astype(
        np.int32
    )


def _drawable(fixed: np.ndarray, axis: int | None = None) -> np.ndarray | bool:
    """Whether no coordinate had to be clipped: such a stroke would run in a wrong direction."""
    return (np.abs(fixed) < 1 << 22).all(axis=axis)
