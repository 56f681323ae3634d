"""Ray casting with Embree: a static layer for each camera and, over it, what moves.

The table, its texture and what stands on it do not change within a sequence: they are cast once a camera. In each frame
only the pixels that the hand, the arm and the held object can cover are cast again. All geometry is in the table's frame
(metres, z up, table top at z = 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from amt.data.distortion import distorted, undistorted
from amt.data.synthetic import lens
from amt.data.synthetic.appearance import noise, to_srgb
from amt.data.synthetic.lens import Shot
from amt.data.synthetic.table import SHADOW_CELLS, SHADOW_SPAN, TABLE_SPAN, cells_of


@dataclass(frozen=True)
class Camera:
    """A camera and where it stands."""

    intrinsics: np.ndarray  # float64 [3, 3], px
    rotation: np.ndarray  # float64 [3, 3], table to camera
    translation: np.ndarray  # float64 [3], m, table to camera
    height: int = 480
    width: int = 640
    distortion: tuple[float, ...] = ()  # k1, k2, p1, p2, k3 of Brown and Conrady's model; () for a pinhole camera

    @property
    def centre(self) -> np.ndarray:
        """float64 [3], m: the eye, in the table's frame."""
        return -self.rotation.T @ self.translation

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """float64 [N, 2]: where points [N, 3] of the table's frame project to."""
        seen = points @ self.rotation.T + self.translation
        plane = distorted(seen[:, :2] / np.maximum(seen[:, 2:], 1e-6), self.distortion)
        return plane @ self.intrinsics[:2, :2].T + self.intrinsics[:2, 2]

    def rays(self) -> np.ndarray:
        """float32 [H * W, 3]: directions in the table's frame with unit depth, so that a hit's distance is its z."""
        matrices = (a.tobytes() for a in (self.intrinsics, self.rotation))
        return _rays(*matrices, self.height, self.width, self.distortion)


@lru_cache(maxsize=8)
def _rays(intrinsics: bytes, rotation: bytes, height: int, width: int, distortion: tuple[float, ...]) -> np.ndarray:
    k, r = (np.frombuffer(b, np.float64).reshape(3, 3) for b in (intrinsics, rotation))
    if distortion:
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
        plane = undistorted((grid - k[:2, 2]) / np.diag(k)[:2], distortion)
        return (np.concatenate((plane, np.ones((len(plane), 1))), 1) @ r).astype(np.float32)
    per_x, per_y, corner = (np.linalg.inv(k).T @ r).astype(np.float32)
    row = np.arange(width, dtype=np.float32)[:, None] * per_x + corner
    return (row + np.arange(height, dtype=np.float32)[:, None, None] * per_y).reshape(-1, 3)


@dataclass(frozen=True)
class Light:
    """One far lamp with a soft edge, and light from everywhere."""

    direction: np.ndarray  # float32 [3], unit, toward the lamp
    colour: np.ndarray  # float32 [3]
    ambient: np.ndarray  # float32 [3]
    softness: float  # rad: how far shadow rays spread


@dataclass(frozen=True)
class Body:
    """A mesh in the table's frame, with what is needed to paint it."""

    vertices: np.ndarray  # float [V, 3], m
    faces: np.ndarray  # int [F, 3]
    normals: np.ndarray  # float [V, 3], unit
    albedo: np.ndarray | None  # float32 [V, 3]; None where ``painter`` colours points; [V, K]: what it gets at a point
    segment: int  # label in the segmentation: class id, 255 for the hand, 0 for what carries no label
    gloss: float | np.ndarray = 0.1  # or [V]
    painter: object = None  # callable: points [N, 3] of the table's frame, or interpolated ``albedo`` -> albedo [N, 3]


class BodyTree:
    """Bodies in an Embree tree."""

    def __init__(self, bodies: list[Body]):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.bodies = bodies
        self.tree = EmbreeScene()
        for body in bodies:
            vertices = np.ascontiguousarray(body.vertices, np.float32)
            TriangleMesh(scene=self.tree, vertices=vertices, indices=np.ascontiguousarray(body.faces, np.int32))
        if bodies:
            starts = np.cumsum([0, *(len(body.vertices) for body in bodies[:-1])])
            self.first_face = np.cumsum([0, *(len(body.faces) for body in bodies[:-1])])
            faces = [body.faces + start for body, start in zip(bodies, starts, strict=True)]
            self.faces = np.concatenate(faces).astype(np.int32)
            self.normals = np.concatenate([body.normals for body in bodies]).astype(np.float32)
            self.segments = np.array([body.segment for body in bodies], np.uint8)

    def hits(self, origin: np.ndarray, directions: np.ndarray):
        """Embree's record (geomID, primID, u, v, tfar) of the first hit along each ray from one origin."""
        return self.tree.run(np.tile(origin.astype(np.float32), (len(directions), 1)), directions, output=True)

    def lit(self, points: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
        """float32 [N]: 1 where a ray toward the (slightly spread) lamp leaves points [N, 3] freely, else 0."""
        if not self.bodies:
            return np.ones(len(points), np.float32)
        pool = directions_pool()
        start = int(rng.integers(0, len(pool) - points.size))
        directions = (light.softness * pool[start : start + points.size]).reshape(points.shape)
        origins, off = np.empty(points.shape, np.float32), 0.0015 * light.direction
        for axis in range(3):
            directions[:, axis] += light.direction[axis]
            origins[:, axis] = points[:, axis] + off[axis]
        return (self.tree.run(origins, directions, query="OCCLUDED") != 0).astype(np.float32)


@dataclass(frozen=True)
class Front:
    """What stands between a camera and the hand, out of focus: a part of the picture."""

    colour: np.ndarray  # uint8 [h, w, 4], sRGB times cover, and cover
    top: int
    left: int
    pixels: np.ndarray  # int [N], index into the picture
    depth: np.ndarray  # float32 [N], m


@dataclass(frozen=True)
class Layer:
    """What a camera sees of the things that do not move."""

    image: np.ndarray  # uint8 [H, W, 3], sRGB, blurred as the camera's settings are
    depth: np.ndarray  # float32 [H, W], m; inf where there is nothing near
    segment: np.ndarray  # uint8 [H, W]
    millimetres: np.ndarray  # uint16 [H, W]: the depth as a picture has it
    table: np.ndarray  # bool [H, W]: the table top itself is seen
    cells: np.ndarray  # float32 [H, W, 2]: where each ray meets the table's plane, in cells of a shadow's map
    front: Front | None


@dataclass(frozen=True)
class Picture:
    """A rendered frame."""

    image: np.ndarray  # uint8 [H, W, 3], sRGB
    depth: np.ndarray  # uint16 [H, W], mm; 0 where nothing near is seen
    segment: np.ndarray  # uint8 [H, W]
    jpeg_quality: int


def static_layer(
    camera: Camera,
    scene: BodyTree,
    light: Light,
    top: np.ndarray,
    table_size: np.ndarray,
    backdrop: np.ndarray,
    occluder: Body | None,
    shot: Shot,
    rng: np.random.Generator,
) -> Layer:
    """The table of ``table_size`` (m, x and y) as :func:`lit_table` paints it, the bodies of ``scene`` upon it, an occluder."""
    import cv2

    height, width = camera.height, camera.width
    directions, eye = camera.rays(), camera.centre.astype(np.float32)
    with np.errstate(divide="ignore"):
        depth = -eye[2] / directions[:, 2]
    place, table = np.empty((len(depth), 2), np.float32), depth > 0
    for axis, half in enumerate(np.asarray(table_size, np.float32) / 2):
        along = np.clip(eye[axis] + depth * directions[:, axis], -1e3, 1e3)
        table &= np.abs(along) < half
        place[:, axis] = along
    depth = np.where(table, depth, np.float32(np.inf)).reshape(height, width)
    table, place = table.reshape(height, width), place.reshape(height, width, 2)

    image = backdrop.copy()
    on_table = cv2.remap(
        top, cells_of(place, TABLE_SPAN, len(top)), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    cv2.copyTo(on_table, table.view(np.uint8), image)
    segment = np.zeros((height, width), np.uint8)
    painted = _cast(camera, scene, light, depth, rng)
    if painted is not None:
        table.ravel()[painted.pixels] = False
        depth.ravel()[painted.pixels], segment.ravel()[painted.pixels] = painted.depth, painted.labels
        image.reshape(-1, 3)[painted.pixels] = painted.colour
    image = lens.defocus(image, shot.radius(depth, camera.intrinsics[0, 0]).astype(np.float32))
    still = lens.joined(lens.soft(shot.softness), lens.line(shot.shake * shot.exposure_time))
    image = cv2.filter2D(image, -1, still, borderType=cv2.BORDER_REPLICATE)
    front = None if occluder is None else _front(camera, occluder, light, shot, rng)
    cells = cells_of(place, SHADOW_SPAN, SHADOW_CELLS)
    return Layer(image, depth, segment, _millimetres(depth), table, cells, front)


def _front(camera: Camera, body: Body, light: Light, shot: Shot, rng) -> Front | None:
    painted = _cast(camera, BodyTree([body]), light, np.full((camera.height, camera.width), np.inf, np.float32), rng)
    if painted is None:
        return None
    radius = float(shot.radius(np.median(painted.depth), camera.intrinsics[0, 0]))
    return Front(*_blurred(painted, camera, shot, radius, np.zeros(2)), painted.pixels, painted.depth)


def draw(
    camera: Camera, scene: BodyTree, layer: Layer, light: Light, shade: np.ndarray, shot: Shot, motion: np.ndarray, rng
) -> Picture:
    """One frame: ``scene``'s bodies over ``layer``, with their shadow on the table, as the camera takes it.

    Args:
        shade: the :func:`shade` of the bodies.
        motion: float64 [2], px/s: how fast the bodies move across the picture.
    """
    image, segment, millimetres = layer.image.copy(), layer.segment.copy(), layer.millimetres.copy()
    _darken(image, layer, shade)
    painted = _cast(camera, scene, light, layer.depth, rng)
    if painted is not None:
        segment.ravel()[painted.pixels] = painted.labels
        millimetres.ravel()[painted.pixels] = _millimetres(painted.depth)
        radius = float(shot.radius(np.median(painted.depth), camera.intrinsics[0, 0]))
        lens.over(image, *_blurred(painted, camera, shot, radius, motion))
    if layer.front is not None:
        front = layer.front
        lens.over(image, front.colour, front.top, front.left)
        depth = layer.depth
        if painted is not None:
            depth = depth.copy()
            depth.ravel()[painted.pixels] = painted.depth
        nearer = front.depth < depth.ravel()[front.pixels]
        pixels = front.pixels[nearer]
        millimetres.ravel()[pixels], segment.ravel()[pixels] = _millimetres(front.depth[nearer]), 0
    return Picture(lens.expose(image, shot, rng), millimetres, segment, shot.jpeg_quality)


def _darken(image: np.ndarray, layer: Layer, shade: np.ndarray) -> None:
    """Lays a shadow upon the table in an image, in place; only where it can be seen."""
    import cv2

    dark = np.argwhere((shade < 255).any(2))
    if not len(dark):
        return
    (top, left), (bottom, right) = dark.min(0) - 1.0, dark.max(0) + 1.0  # a cell's neighbours are blended with it
    x, y, width, height = cv2.boundingRect(cv2.inRange(layer.cells, (left, top), (right, bottom)))
    part = slice(y, y + height), slice(x, x + width)
    if not width:
        return
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (255, 255, 255)}
    fall = cv2.remap(shade, layer.cells[part], None, cv2.INTER_LINEAR, **border)
    darker = cv2.multiply(layer.image[part], fall, scale=1 / 255)
    cv2.copyTo(darker, layer.table[part].view(np.uint8), image[part])


def _millimetres(depth: np.ndarray) -> np.ndarray:
    """uint16, mm, of depth in m; 0 where it is inf."""
    return np.where(np.isfinite(depth), np.round(depth * 1000), 0).astype(np.uint16)


@dataclass(frozen=True)
class Painted:
    """The pixels of bodies that are seen."""

    pixels: np.ndarray  # int [N], index into the picture
    depth: np.ndarray  # float32 [N], m
    colour: np.ndarray  # uint8 [N, 3], sRGB
    labels: np.ndarray  # uint8 [N]


def _blurred(painted: Painted, camera: Camera, shot: Shot, radius: float, motion: np.ndarray) -> tuple:
    """uint8 [h, w, 4], colour times cover and cover, of what is seen, out of focus and in motion; and its top and left."""
    import cv2

    kernel = lens.joined(
        lens.soft(shot.softness), lens.disc(radius), lens.line((motion + shot.shake) * shot.exposure_time)
    )
    y, x = np.divmod(painted.pixels, camera.width)
    room = len(kernel) // 2
    top, left = max(0, y.min() - room), max(0, x.min() - room)
    bottom, right = min(camera.height, y.max() + room + 1), min(camera.width, x.max() + room + 1)
    layer = np.zeros((bottom - top, right - left, 4), np.uint8)
    layer[y - top, x - left, :3], layer[y - top, x - left, 3] = painted.colour, 255
    return cv2.filter2D(layer, -1, kernel, borderType=cv2.BORDER_REPLICATE), int(top), int(left)


def _cast(camera: Camera, scene: BodyTree, light: Light, depth: np.ndarray, rng) -> Painted | None:
    """What is seen of the scene's bodies before ``depth`` [H, W]; None where that is nothing."""
    import cv2

    if not scene.bodies:
        return None
    region = np.zeros(depth.shape, np.uint8)
    for body in scene.bodies:
        corners = np.clip(camera.pixels(body.vertices), -4e3, 4e3).astype(np.int32)
        cv2.fillConvexPoly(region, cv2.convexHull(corners), 1)
    pixels = np.flatnonzero(cv2.dilate(region, np.ones((3, 3), np.uint8)))
    directions = camera.rays().take(pixels, 0)
    hit = scene.hits(camera.centre, directions)
    seen = np.flatnonzero((hit["geomID"] >= 0) & (hit["tfar"] < depth.ravel()[pixels]))
    if not len(seen):
        return None
    pixels, directions = pixels[seen], np.asfortranarray(directions.take(seen, 0))
    which, face, u, v, z = (hit[k][seen] for k in ("geomID", "primID", "u", "v", "tfar"))
    points = camera.centre.astype(np.float32) + z[:, None] * directions

    corner, weights = scene.faces.take(face + scene.first_face[which], 0), np.stack((1 - u - v, u, v), 1)
    normals = _unit(_blend(scene.normals, corner, weights))
    albedo, gloss = np.empty_like(points), np.empty(len(pixels), np.float32)
    start = 0
    for index, body in enumerate(scene.bodies):
        mine = np.flatnonzero(which == index)
        if len(mine):
            at = points.T.take(mine, 1).T
            colours, gloss[mine] = _paint(body, at, corner.take(mine, 0) - start, weights.take(mine, 0))
            for channel in range(3):
                albedo[:, channel][mine] = colours[:, channel]
        start += len(body.vertices)

    free = scene.lit(points + 0.001 * normals, light, rng)
    toward = -directions / _lengths(directions)
    diffuse = np.clip(np.ascontiguousarray(normals) @ light.direction, 0, 1) * free
    halfway = _unit(toward + light.direction)
    shine = gloss * np.clip((normals * halfway).sum(1), 0, 1) ** 24 * free
    # The table sends some light back from below; a surface seen at a grazing angle gets a little darker.
    sky = 0.75 + 0.25 * normals[:, 2]
    edge = 0.8 + 0.2 * np.clip((normals * toward).sum(1), 0, 1)
    around = sky * edge
    for channel, (lamp, ambient) in enumerate(zip(light.colour, light.ambient, strict=True)):
        albedo[:, channel] *= ambient * around + lamp * diffuse
        albedo[:, channel] += shine * lamp
    return Painted(pixels, z, to_srgb(albedo), scene.segments[which])


def _paint(body: Body, points: np.ndarray, corner: np.ndarray, weights: np.ndarray):
    """Albedo [N, 3] and gloss [N] of a body at points [N, 3], m, in its triangles of the corners [N, 3]."""
    gloss = body.gloss if np.isscalar(body.gloss) else _blend(body.gloss[:, None], corner, weights)[:, 0]
    if body.painter is None:
        grain = 1 + 0.10 * (noise(points + 3.0, 0.0025)[:, None] - 0.5)
        return _blend(body.albedo, corner, weights) * grain, gloss
    return body.painter(points if body.albedo is None else _blend(body.albedo, corner, weights)), gloss


def _blend(values: np.ndarray, corner: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 [N, K], column after column: values [V, K] of each triangle's corners [N, 3], weighted [N, 3]."""
    from scipy.sparse import csr_array

    rows = np.arange(0, corner.size + 1, 3, dtype=np.int32)
    at = csr_array((weights.ravel(), corner.ravel(), rows), (len(corner), len(values)))
    return np.asfortranarray(at @ np.ascontiguousarray(values, np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / _lengths(vectors)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """[N, 1], as numpy.linalg.norm has them, which is slow where columns lie apart."""
    x, y, z = vectors.T
    return np.sqrt(x * x + y * y + z * z)[:, None]


@lru_cache(maxsize=1)
def directions_pool() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 1, 2_000_003).astype(np.float32)
