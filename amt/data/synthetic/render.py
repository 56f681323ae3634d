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

TABLE_SPAN = 2.4  # m: side of the square that the table's texture and shadow cover
SHADOW_CELLS = 160
LAMP_POINTS = 6  # rays from a cell of the table's shadow to the lamp
SHADOW_SPAN = 1.2  # m: side of the square in which the hand's shadow is looked for


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


@dataclass(frozen=True)
class Cells:
    """A square of the table about the origin, of ``count`` x ``count`` cells; x runs along a row."""

    span: float  # m
    count: int

    def points(self, which: np.ndarray) -> np.ndarray:
        """float32 [N, 3], m: the middles of cells, by their index in the map."""
        row, column = np.divmod(which, self.count)
        plane = (np.stack((column, row, np.zeros_like(row)), 1) + 0.5) / self.count - 0.5
        plane[:, 2] = 0
        return (plane * self.span).astype(np.float32)

    def place(self, points: np.ndarray) -> np.ndarray:
        """float [N, 2]: columns and rows of points [N, 2] (m) of the table."""
        return (points / self.span + 0.5) * self.count - 0.5


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

    def hits(self, origin: np.ndarray, directions: np.ndarray):
        """Embree's record (geomID, primID, u, v, tfar) of the first hit along each ray from one origin."""
        origins = np.ascontiguousarray(np.broadcast_to(origin.astype(np.float32), directions.shape))
        return self.tree.run(origins, directions, output=True)

    def light_kept(self, cells: Cells, light: Light) -> np.ndarray:
        """float32 [S, S]: the part of the lamp that bodies hide from cells, by rays to :data:`LAMP_POINTS` points of it.

        Only from cells within the shadow of a body's convex hull is a ray cast.
        """
        import cv2

        kept = np.zeros((cells.count, cells.count), np.float32)
        side = np.cross(light.direction, np.eye(3, dtype=np.float32)[np.abs(light.direction).argmin()])
        side /= np.linalg.norm(side)
        axes = np.stack((side, np.cross(light.direction, side)))
        for k in range(LAMP_POINTS):  # quantiles of a Gaussian, a golden angle apart
            far = light.softness * np.sqrt(-2 * np.log((k + 0.5) / LAMP_POINTS))
            angle = k * np.pi * (3 - 5**0.5)
            direction = light.direction + far * (np.array([np.cos(angle), np.sin(angle)]) @ axes)
            if direction[2] <= 0:  # a lamp that low throws its shadow beyond any table
                continue
            region = np.zeros(kept.shape, np.uint8)
            for body in self.bodies:
                on = body.vertices[:, :2] - body.vertices[:, 2:] * (direction[:2] / direction[2])
                corners = np.clip(cells.place(on), -4e3, 4e3).astype(np.int32)
                cv2.fillConvexPoly(region, cv2.convexHull(corners), 1)
            dark = np.flatnonzero(cv2.dilate(region, np.ones((3, 3), np.uint8)))
            origins = cells.points(dark) + np.float32(0.0015) * light.direction
            directions = np.broadcast_to(direction.astype(np.float32), origins.shape)
            hidden = self.tree.run(origins, np.ascontiguousarray(directions), query="OCCLUDED") == 0
            kept.ravel()[dark[hidden]] += 1 / LAMP_POINTS
        return kept

    def lit(self, points: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
        """float32 [N]: 1 where a ray toward the (slightly spread) lamp leaves points [N, 3] freely, else 0."""
        if not self.bodies:
            return np.ones(len(points), np.float32)
        pool = _spread()
        start = int(rng.integers(0, len(pool) - points.size))
        directions = light.direction + light.softness * pool[start : start + points.size].reshape(points.shape)
        origins = np.ascontiguousarray(points + 0.0015 * light.direction, np.float32)
        return (self.tree.run(origins, directions, query="OCCLUDED") != 0).astype(np.float32)


@dataclass(frozen=True)
class Front:
    """What stands between a camera and the hand, out of focus: a part of the picture."""

    colour: np.ndarray  # uint8 [h, w, 4], sRGB times cover, and cover
    top: int
    left: int
    depth: np.ndarray  # float32 [H, W], m; inf where there is nothing


@dataclass(frozen=True)
class Layer:
    """What a camera sees of the things that do not move."""

    image: np.ndarray  # uint8 [H, W, 3], sRGB, blurred as the camera's settings are
    depth: np.ndarray  # float32 [H, W], m; inf where there is nothing near
    segment: np.ndarray  # uint8 [H, W]
    table: np.ndarray  # bool [H, W]: the table top itself is seen
    place: np.ndarray  # float32 [H, W, 2], m: where each ray meets the table's plane
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
    place = np.clip(eye[:2] + depth[:, None] * directions[:, :2], -1e3, 1e3)
    half = np.asarray(table_size, np.float32) / 2
    table = (depth > 0) & (np.abs(place[:, 0]) < half[0]) & (np.abs(place[:, 1]) < half[1])
    depth = np.where(table, depth, np.float32(np.inf)).reshape(height, width)
    table, place = table.reshape(height, width), place.reshape(height, width, 2)

    image = backdrop.copy()
    cv2.copyTo(_on_table(top, place, TABLE_SPAN, cv2.BORDER_REPLICATE), table.view(np.uint8), image)
    segment = np.zeros((height, width), np.uint8)
    painted = _cast(camera, scene, light, depth, rng)
    if painted is not None:
        table.ravel()[painted.pixels] = False
        _put(painted, image, depth, segment)
    image = lens.defocus(image, shot.radius(depth, camera.intrinsics[0, 0]).astype(np.float32))
    still = lens.joined(lens.soft(shot.softness), lens.line(shot.shake * shot.exposure_time))
    image = cv2.filter2D(image, -1, still, borderType=cv2.BORDER_REPLICATE)
    front = None if occluder is None else _front(camera, occluder, light, shot, rng)
    return Layer(image, depth, segment, table, place, front)


def _front(camera: Camera, body: Body, light: Light, shot: Shot, rng) -> Front | None:
    painted = _cast(camera, BodyTree([body]), light, np.full((camera.height, camera.width), np.inf, np.float32), rng)
    if painted is None:
        return None
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    depth.ravel()[painted.pixels] = painted.depth
    radius = float(shot.radius(np.median(painted.depth), camera.intrinsics[0, 0]))
    return Front(*_blurred(painted, camera, shot, radius, np.zeros(2)), depth)


def lit_table(top: np.ndarray, scene: BodyTree, light: Light) -> np.ndarray:
    """The table's texture [S, S, 3] under the lamp and the shadows of what stands on it, as bright as a picture shows it."""
    import cv2

    shade = light.ambient + light.colour * max(0.0, float(light.direction[2]))
    tone = (np.clip(shade, 0, 1.6) ** (1 / 2.2)).astype(np.float32)
    if not scene.bodies:
        return cv2.multiply(top, (*map(float, tone), 1.0), dtype=cv2.CV_8U)
    keep = _keep(shadow_map(scene, light, TABLE_SPAN, 2 * SHADOW_CELLS), light)
    steps = 255 / float(tone.max())
    keep = np.round(keep * (steps * tone)).astype(np.uint8)
    return cv2.multiply(top, cv2.resize(keep, top.shape[1::-1]), scale=1 / steps)


def shadow_map(scene: BodyTree, light: Light, span: float = SHADOW_SPAN, cells: int = SHADOW_CELLS) -> np.ndarray:
    """float32 [cells, cells]: the part of the lamp's light that bodies keep from a square of the table (0-1)."""
    import cv2

    return cv2.GaussianBlur(scene.light_kept(Cells(span, cells), light), (0, 0), 0.7)


def draw(
    camera: Camera, scene: BodyTree, layer: Layer, light: Light, shadow: np.ndarray, shot: Shot, motion: np.ndarray, rng
) -> Picture:
    """One frame: ``scene``'s bodies over ``layer``, with their shadow on the table, as the camera takes it.

    Args:
        motion: float64 [2], px/s: how fast the bodies move across the picture.
    """
    import cv2

    keep = np.round(255 * _keep(shadow, light)).astype(np.uint8)
    fall = _on_table(keep, layer.place, SHADOW_SPAN, cv2.BORDER_CONSTANT, (255, 255, 255))
    image = cv2.multiply(layer.image, fall, scale=1 / 255)
    cv2.copyTo(layer.image, (~layer.table).view(np.uint8), image)
    depth, segment = layer.depth.copy(), layer.segment.copy()
    painted = _cast(camera, scene, light, depth, rng)
    if painted is not None:
        _put(painted, None, depth, segment)
        radius = float(shot.radius(np.median(painted.depth), camera.intrinsics[0, 0]))
        lens.over(image, *_blurred(painted, camera, shot, radius, motion))
    if layer.front is not None:
        front = layer.front
        lens.over(image, front.colour, front.top, front.left)
        nearer = front.depth < depth
        depth[nearer], segment[nearer] = front.depth[nearer], 0
    image = lens.expose(image, shot, rng)
    millimetres = np.where(np.isfinite(depth), np.round(depth * 1000), 0).astype(np.uint16)
    return Picture(image, millimetres, segment, shot.jpeg_quality)


@dataclass(frozen=True)
class Painted:
    """The pixels of bodies that are seen."""

    pixels: np.ndarray  # int [N], index into the picture
    depth: np.ndarray  # float32 [N], m
    colour: np.ndarray  # uint8 [N, 3], sRGB
    labels: np.ndarray  # uint8 [N]


def _put(painted: Painted, image: np.ndarray | None, depth: np.ndarray, segment: np.ndarray) -> None:
    depth.ravel()[painted.pixels] = painted.depth
    segment.ravel()[painted.pixels] = painted.labels
    if image is not None:
        image.reshape(-1, 3)[painted.pixels] = painted.colour


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
    directions = camera.rays()[pixels]
    hit = scene.hits(camera.centre, directions)
    seen = (hit["geomID"] >= 0) & (hit["tfar"] < depth.ravel()[pixels])
    pixels, directions = pixels[seen], directions[seen]
    which, face, u, v, z = (hit[k][seen] for k in ("geomID", "primID", "u", "v", "tfar"))
    points = camera.centre.astype(np.float32) + z[:, None] * directions
    if not len(pixels):
        return None

    normals, albedo = np.empty_like(points), np.empty_like(points)
    gloss, labels = np.empty(len(pixels), np.float32), np.empty(len(pixels), np.uint8)
    for index, body in enumerate(scene.bodies):
        mine = np.flatnonzero(which == index)
        if not len(mine):
            continue
        corner = body.faces[face[mine]]
        weights = (1 - u[mine] - v[mine])[:, None], u[mine][:, None], v[mine][:, None]
        normals[mine] = _blend(body.normals, corner, weights)
        if body.painter is not None and body.albedo is not None:
            albedo[mine] = body.painter(_blend(body.albedo, corner, weights))
        elif body.painter is None:
            grain = 1 + 0.10 * (noise(points[mine] + 3.0, 0.0025)[:, None] - 0.5)
            albedo[mine] = _blend(body.albedo, corner, weights) * grain
        else:
            albedo[mine] = body.painter(points[mine])
        gloss[mine] = body.gloss if np.isscalar(body.gloss) else _blend(body.gloss[:, None], corner, weights)[:, 0]
        labels[mine] = body.segment
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)

    free = scene.lit(points + 0.001 * normals, light, rng)
    toward = -directions / np.linalg.norm(directions, axis=1, keepdims=True)
    diffuse = np.clip(normals @ light.direction, 0, 1) * free
    halfway = toward + light.direction
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
    shine = gloss * np.clip((normals * halfway).sum(1), 0, 1) ** 24 * free
    # The table sends some light back from below; a surface seen at a grazing angle gets a little darker.
    sky = 0.75 + 0.25 * normals[:, 2]
    edge = 0.8 + 0.2 * np.clip((normals * toward).sum(1), 0, 1)
    colour = (
        albedo * (light.ambient * (sky * edge)[:, None] + light.colour * diffuse[:, None])
        + shine[:, None] * light.colour
    )
    return Painted(pixels, z, to_srgb(colour), labels)


def _blend(values: np.ndarray, corner: np.ndarray, weights) -> np.ndarray:
    """float32 [N, K]: values [V, K] of each triangle's corners [N, 3], weighted."""
    values = np.asarray(values, np.float32)
    return sum(w * values[corner[:, k]] for k, w in enumerate(weights))


def _keep(shadow: np.ndarray, light: Light) -> np.ndarray:
    """float32 [S, S, 3]: the factor on sRGB values that is left of the table's brightness under a shadow."""
    lamp = light.colour * max(0.0, float(light.direction[2]))
    return ((1 - shadow[..., None] * (lamp / (lamp + light.ambient))) ** np.float32(1 / 2.2)).astype(np.float32)


def _on_table(texture: np.ndarray, place: np.ndarray, span: float, border: int, outside=(0, 0, 0)) -> np.ndarray:
    """What is seen of a map of the table, [S, S, 3] over ``span`` metres, by rays that meet its plane at ``place`` (m)."""
    import cv2

    cells = len(texture)
    at = cv2.addWeighted(place, cells / span, place, 0, cells / 2 - 0.5)
    return cv2.remap(texture, at, None, cv2.INTER_LINEAR, borderMode=border, borderValue=outside)


@lru_cache(maxsize=1)
def _spread() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 1, 2_000_003).astype(np.float32)
