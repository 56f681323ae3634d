"""Drawing primitives: shaded meshes, bones, boxes, dots and text, anti-aliased and with transparency.

Everything is drawn on a layer of twice the picture's resolution, reduced by area averaging and then blended over the
picture: lines stay crisp, and the photograph beneath is never resampled. Colours are RGB. Pixels follow the camera's
convention, the centre of the top-left pixel is (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amt.hand.skeleton import BONES, FINGER_JOINTS, PARENTS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SUPERSAMPLING = 2
SMOOTH_AREA = 20.0  # px²: a triangle below it needs no shades within
_SUBPIXEL_BITS = 4
_STAIRS = 0.75  # px of the sheet: by how much a contour may leave the pixels that it goes around
_FAR = 3.0  # of the rasteriser, whose meshes lie between 1 and 2
_LARGEST = 4_000_000  # px of a sheet: the rasteriser takes 16 bytes for each
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


class Layer:
    """A transparent sheet over a picture of ``height`` x ``width`` px. Draw on it, then :meth:`over` blends it.

    Shapes wait until the layer is blended, so that only the part of the sheet that they need is made.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        # each draws its shapes on a part of the sheet, whose corner (x, y) it is given in px of the sheet
        self._shapes: list[Callable[[np.ndarray, np.ndarray], None]] = []
        self._low, self._high = np.full(2, np.inf), np.full(2, -np.inf)  # x, y on the sheet: around all that is drawn

    def lines(self, ends: np.ndarray, colours: Sequence[Colour], width: float = 1.0) -> None:
        """Straight strokes [N, 2, 2] (px) in the order given, each in its colour; ``width`` in px of the picture."""
        import cv2

        thickness = max(1, round(width * SUPERSAMPLING))
        fixed, colours = self._placed(ends, colours, thickness)

        def draw(sheet: np.ndarray, corner: np.ndarray) -> None:
            for (start, end), colour in zip((fixed - (corner << _SUBPIXEL_BITS)).tolist(), colours.tolist()):
                cv2.line(sheet, start, end, colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

        self._shapes.append(draw)

    def dots(self, centres: np.ndarray, colours: Sequence[Colour], radius: float) -> None:
        """Filled circles around pixels [N, 2] in the order given, each in its colour; ``radius`` in px of the picture."""
        import cv2

        r = max(1, round(radius * SUPERSAMPLING * (1 << _SUBPIXEL_BITS)))
        fixed, colours = self._placed(np.asarray(centres)[:, None], colours, radius * SUPERSAMPLING)

        def draw(sheet: np.ndarray, corner: np.ndarray) -> None:
            for (centre,), colour in zip((fixed - (corner << _SUBPIXEL_BITS)).tolist(), colours.tolist()):
                cv2.circle(sheet, centre, r, colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)

        self._shapes.append(draw)

    def polygons(self, corners: np.ndarray, colours: np.ndarray) -> None:
        """Convex polygons [N, K, 2] (px) filled in the order given, each in its colour [N, 3]."""
        import cv2

        fixed, colours = self._placed(corners, colours, 0)

        def draw(sheet: np.ndarray, corner: np.ndarray) -> None:
            for polygon, *colour in zip(fixed - (corner << _SUBPIXEL_BITS), *colours.T.tolist()):
                cv2.fillConvexPoly(sheet, polygon, colour, cv2.LINE_8, _SUBPIXEL_BITS)

        self._shapes.append(draw)

    def triangles(self, points: np.ndarray, depth: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
        """Triangles [F, 3] of points [N, 2] (px): at each pixel the nearest one, with the points' colours [N, 3] blended.

        Needs :func:`has_rasteriser`. ``depth`` [N] grows away from the viewer, in any unit.
        """
        import cv2

        fixed = _fixed(points)
        usable = _drawable(fixed[:, None]) & np.isfinite(depth)
        if not usable.all():
            faces = faces[usable[faces].all(1)]
        if not len(faces):
            return
        self._hold(fixed[usable], 0)
        faces, shade = np.int32(faces), np.float32(colours / 255)
        near, far = depth[faces].min(), depth[faces].max()
        away = 1 + (depth - near) / ((far - near) or 1.0)  # 1 to 2, in the rasteriser's unit
        settings = cv2.TriangleRasterizeSettings()
        settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
        settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)

        def draw(sheet: np.ndarray, corner: np.ndarray) -> None:
            height, width = sheet.shape[:2]
            # Its camera looks along -z with 90 degrees over the height, y up: points that it projects to their places.
            x, y = ((fixed / (1 << _SUBPIXEL_BITS) - corner + 0.5) * 2 - (width, height)).T / height
            seen = np.float32(np.stack((x * away, -y * away, -away), 1))
            painted, nearest = np.zeros((height, width, 3), np.float32), np.full((height, width), _FAR, np.float32)
            painted, nearest = cv2.triangleRasterize(
                seen, faces, shade, painted, nearest, np.eye(4), math.pi / 2, 0.5, _FAR, settings
            )
            cover = cv2.compare(nearest, _FAR, cv2.CMP_LT)
            cv2.copyTo(cv2.merge((*cv2.split(cv2.convertScaleAbs(painted, alpha=255)), cover)), cover, sheet)

        self._shapes.append(draw)

    def outline(self, colour: Colour, width: float) -> Layer:
        """A new layer that holds the contour of all that this one covers, holes included."""
        import cv2

        result = Layer(self.height, self.width)
        thickness = max(1, round(width * SUPERSAMPLING))
        covered = (self._sheet[..., 3] > 127).astype(np.uint8)
        if covered.any():
            low, _ = self._bounds()
            edges, _ = cv2.findContours(covered, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=low.tolist())
            edges = [cv2.approxPolyDP(edge, _STAIRS, True) for edge in edges]  # fewer strokes, no stairs

            def draw(sheet: np.ndarray, corner: np.ndarray) -> None:
                moved = [edge - corner.astype(np.int32) for edge in edges]
                cv2.polylines(sheet, moved, True, (*colour, 255), thickness, cv2.LINE_AA)

            result._shapes.append(draw)
            result._low, result._high = self._low - thickness, self._high + thickness
        return result

    def over(self, picture: np.ndarray, opacity: float = 1.0) -> None:
        """Blends this layer over ``picture`` (uint8 [H, W, 3]) in place; only covered pixels change."""
        import cv2

        (left, top), (right, bottom) = (bound // SUPERSAMPLING for bound in self._bounds())
        if left >= right or top >= bottom:
            return
        # Black where nothing is drawn: the reduced colour is premultiplied by the reduced cover.
        reduced = cv2.resize(self._sheet, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA)
        under = picture[top:bottom, left:right]
        uncovered = cv2.convertScaleAbs(reduced[..., 3], alpha=-opacity, beta=255)
        kept = cv2.multiply(under, cv2.merge((uncovered,) * 3), scale=1 / 255)
        under[:] = cv2.addWeighted(kept, 1, reduced[..., :3], opacity, 0)

    @cached_property
    def _sheet(self) -> np.ndarray:
        """uint8 [h, w, 4], the part in :meth:`_bounds`: RGB, black where nothing is drawn, and cover, 255 where something is."""
        low, high = self._bounds()
        sheet = np.zeros((*(high - low)[::-1], 4), np.uint8)
        if sheet.size:
            for draw in self._shapes:
                draw(sheet, low)
        return sheet

    def _placed(
        self, points: np.ndarray, colours: Sequence | np.ndarray, reach: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shapes [N, K, 2] (px) in fixed point, and their colours [N, 4]; those that cannot be drawn are left out.

        ``reach`` is how far a shape goes beyond its points, px of the sheet.
        """
        fixed = _fixed(points)
        painted = np.full((len(fixed), 4), 255.0)
        painted[:, :3] = np.asarray(colours, np.float64).reshape(-1, 3)
        drawable = _drawable(fixed)
        fixed, painted = fixed[drawable], painted[drawable]
        if len(fixed):
            self._hold(fixed, reach)
        return fixed, painted

    def _hold(self, fixed: np.ndarray, reach: float) -> None:
        """Makes the sheet hold points [..., 2] in fixed point."""
        places = fixed.reshape(-1, 2) / (1 << _SUBPIXEL_BITS)
        self._low = np.minimum(self._low, places.min(0) - reach)
        self._high = np.maximum(self._high, places.max(0) + reach)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Even corners x, y of the part of the sheet that holds all that is drawn, int [2] each; equal ones: nothing is."""
        if not np.isfinite(self._low).all():
            return np.zeros(2, int), np.zeros(2, int)
        size = np.array((self.width, self.height)) * SUPERSAMPLING
        margin = 2 * SUPERSAMPLING  # of anti-aliasing and rounding
        low = np.clip((self._low - margin) // SUPERSAMPLING * SUPERSAMPLING, 0, size)
        high = np.clip((self._high + margin) // SUPERSAMPLING * SUPERSAMPLING + SUPERSAMPLING, 0, size)
        return low.astype(int), np.maximum(high, low).astype(int)


def has_rasteriser() -> bool:
    """Whether OpenCV draws meshes by itself: from version 5 on."""
    import cv2

    return hasattr(cv2, "triangleRasterize")


def paint_mesh(layer: Layer, pixels: np.ndarray, seen: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
    """Paints a shaded mesh: by OpenCV's rasteriser, or back to front where there is none, or it would need much memory.

    Args:
        layer: what to draw on.
        pixels: [V, 2], px.
        seen: [V, 3], m: the vertices as the viewer sees them, x right, y down, z away from the viewer.
        faces: int [F, 3].
        colours: [V, 3], RGB 0-255.
    """
    mesh = _topology(faces.tobytes(), faces.dtype.str, len(seen))
    a, b, c = seen.T[:, faces.T].swapaxes(0, 1)  # corners of all faces, [3, F] each
    (x, y, z), (u, v, w) = b - a, c - a
    smooth = mesh.at_corners @ np.stack((y * w - z * v, z * u - x * w, x * v - y * u), 1)
    lit = (smooth @ _LIGHT) / (np.sqrt((smooth * smooth).sum(1)) + 1e-12)
    shade = 0.66 + 0.42 * np.clip(lit, -0.6, 1)
    painted = np.clip(np.asarray(colours, np.float64) * shade[:, None], 0, 255)
    # What shows the viewer its back lies behind something, once the opening at the wrist is closed.
    closed = mesh.closed
    sides = np.minimum(np.ptp(pixels, axis=0), (layer.width, layer.height)) * SUPERSAMPLING
    if has_rasteriser() and np.prod(sides) <= _LARGEST:
        layer.triangles(pixels, seen[:, 2], closed[_area(pixels[closed]) < 0], painted)
        return
    values = np.concatenate((pixels, seen[:, 2:], painted), axis=1)[closed]
    area = _area(values[..., :2])
    values, area = values[area < 0], -area[area < 0]
    # A triangle that shows large in four, with colours of its own: as smooth to the eye as shading pixel by pixel.
    large = area > SMOOTH_AREA
    values = np.concatenate((values[~large], _quarter(values[large])))
    values = values[np.argsort(-values[..., 2].mean(1))]
    layer.polygons(values[..., :2], values[..., 3:].mean(1))


class _Mesh(NamedTuple):
    """What depends on a mesh's faces alone."""

    at_corners: csr_array  # float64 [V, F]: 1 where a face has this corner
    closed: np.ndarray  # int [F + L, 3]: the faces, and lids on the openings


@lru_cache(maxsize=4)
def _topology(faces: bytes, dtype: str, points: int) -> _Mesh:
    from scipy.sparse import csr_array  # late: a first answer without a drawing does not wait for it

    triangles = np.frombuffer(faces, dtype).reshape(-1, 3)
    places = triangles.ravel(), np.arange(len(triangles)).repeat(3)
    at_corners = csr_array((np.ones(triangles.size), places), (points, len(triangles)))
    return _Mesh(at_corners, np.concatenate((triangles, _lids(faces, dtype))))


@lru_cache(maxsize=4)
def _lids(faces: bytes, dtype: str) -> np.ndarray:
    """int [L, 3]: triangles that close the openings of a mesh, as fans around one corner of each."""
    triangles = np.frombuffer(faces, dtype).reshape(-1, 3)
    edges = {(int(t[k]), int(t[(k + 1) % 3])) for t in triangles for k in range(3)}
    following = {b: a for a, b in edges if (b, a) not in edges}  # along the rim, so that a lid looks outwards
    lids = []
    while following:
        first, second = following.popitem()
        while second in following:
            third = following.pop(second)
            if third != first:
                lids.append((first, second, third))
            second = third
    return np.array(lids, dtype).reshape(-1, 3)


def _area(corners: np.ndarray) -> np.ndarray:
    """Areas of triangles [F, 3, 2], px²: [F]; below 0 where the corners go counter-clockwise to the eye, for y points down."""
    (ax, ay), (bx, by) = (corners[:, k].T - corners[:, 0].T for k in (1, 2))
    return (ax * by - ay * bx) / 2


def _quarter(corners: np.ndarray) -> np.ndarray:
    """Triangles [F, 3, N] cut at the middles of their sides, [4 F, 3, N]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.concatenate([np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def paint_skeleton(layer: Layer, pixels: np.ndarray, scale: float = 1.0, colour: Colour | None = None) -> None:
    """Bones and joints of a hand [21, 2] (px) in the fingers' colours, or all in one; ``scale`` widens the strokes."""
    bones, colours = pixels[np.array(BONES)], [colour or of_joint for of_joint in JOINT_COLOURS]
    layer.lines(bones, [DARK] * len(bones), 3.4 * scale)
    layer.lines(bones, [colours[joint] for _, joint in BONES], 2.0 * scale)
    layer.dots(pixels, [DARK] * len(pixels), 3.4 * scale)
    layer.dots(pixels, colours, 2.5 * scale)


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
    edges = [edge for edge in BOX_EDGES if (frozenset(edge) in near) == front]
    if not edges:
        return
    ends = pixels[np.array(edges)]
    if front:
        layer.lines(ends, [DARK] * len(edges), 3.0 * scale)
    layer.lines(ends, [colour] * len(edges), (1.8 if front else 1.0) * scale)


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
    cover, (left, top) = _letters(_one_line(text), size, bold, anchor)
    left, top = place[0] + left, place[1] + top
    x, y = max(left, 0), max(top, 0)
    under = picture[y : max(top + cover.shape[0], 0), x : max(left + cover.shape[1], 0)]
    if under.size:
        share = cover[y - top :, x - left :][: under.shape[0], : under.shape[1], None]
        under[:] = (under + share * (np.asarray(colour, np.float32) - under) + 0.5).astype(np.uint8)


@lru_cache(maxsize=256)
def _letters(text: str, size: int, bold: bool, anchor: str) -> tuple[np.ndarray, tuple[int, int]]:
    """float32 [h, w], 0-1: the cover of a line of text, and where its corner x, y lies from the anchor, px."""
    from PIL import Image, ImageDraw

    font = _font(size, bold)
    left, top, right, bottom = font.getbbox(text, anchor=anchor)
    left, top = math.floor(left) - 1, math.floor(top) - 1
    sheet = Image.new("L", (math.ceil(right) + 1 - left, math.ceil(bottom) + 1 - top))
    ImageDraw.Draw(sheet).text((-left, -top), text, fill=255, font=font, anchor=anchor)
    return np.asarray(sheet, np.float32) / 255, (left, top)


def text_width(text: str, size: int = 16, bold: bool = False) -> float:
    """How wide :func:`write` makes a line, px."""
    return _font(size, bold).getlength(_one_line(text))


def _one_line(text: str) -> str:
    """A file's name may hold line ends and bytes that are no text: Pillow takes neither."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@lru_cache(maxsize=16)
def _font(size: int, bold: bool):
    """DejaVu Sans, which matplotlib brings along. Its folder is looked up: to import matplotlib takes half a second."""
    from PIL import ImageFont

    package = find_spec("matplotlib")
    if package is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / name), size)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Fixed-point coordinates on the supersampled layer, int32; far outside where not finite or out of range."""
    place = ((np.asarray(pixels, np.float64) + 0.5) * SUPERSAMPLING - 0.5) * (1 << _SUBPIXEL_BITS)
    limit = float(1 << 22)
    return np.clip(np.nan_to_num(np.round(place), nan=limit, posinf=limit, neginf=-limit), -limit, limit).astype(
        np.int32
    )


def _drawable(fixed: np.ndarray) -> np.ndarray:
    """bool [N]: whether no coordinate of a shape [N, K, 2] had to be clipped: it would be drawn in a wrong direction."""
    return (np.abs(fixed) < 1 << 22).all(axis=(1, 2))
