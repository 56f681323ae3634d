"""Ray casting with Embree: a static layer for each camera and, over it, what moves.

The table, its texture and what stands on it do not change within a sequence: they are cast once a camera. In each frame
only the pixels that the hand, the arm and the held object can cover are cast again. All geometry is in the table's frame
(metres, z up, table top at z = 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from amt.data.synthetic.appearance import noise, to_srgb

TABLE_SPAN = 2.4  # m: side of the square that the table's texture and shadow cover
SHADOW_CELLS = 192
SHADOW_SPAN = 1.2  # m: side of the square in which the hand's shadow is looked for


@dataclass(frozen=True)
class Camera:
    """A pinhole camera and where it stands."""

    intrinsics: np.ndarray  # float64 [3, 3], px
    rotation: np.ndarray  # float64 [3, 3], table to camera
    translation: np.ndarray  # float64 [3], m, table to camera
    height: int = 480
    width: int = 640

    @property
    def centre(self) -> np.ndarray:
        """float64 [3], m: the eye, in the table's frame."""
        return -self.rotation.T @ self.translation

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """float64 [N, 2]: where points [N, 3] of the table's frame project to."""
        seen = (points @ self.rotation.T + self.translation) @ self.intrinsics.T
        return seen[:, :2] / np.maximum(seen[:, 2:], 1e-6)

    def rays(self) -> np.ndarray:
        """float32 [H * W, 3]: directions in the table's frame with unit depth, so that a hit's distance is its z."""
        return _rays(*(a.tobytes() for a in (self.intrinsics, self.rotation)), self.height, self.width)


@lru_cache(maxsize=8)
def _rays(intrinsics: bytes, rotation: bytes, height: int, width: int) -> np.ndarray:
    k, r = (np.frombuffer(b, np.float64).reshape(3, 3) for b in (intrinsics, rotation))
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

    def hits(self, origin: np.ndarray, directions: np.ndarray):
        """Embree's record (geomID, primID, u, v, tfar) of the first hit along each ray from one origin."""
        origins = np.ascontiguousarray(np.broadcast_to(origin.astype(np.float32), directions.shape))
        return self.tree.run(origins, directions, output=True)

    def lit(self, points: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
        """float32 [N]: 1 where a ray toward the (slightly spread) lamp leaves points [N, 3] freely, else 0."""
        if not self.bodies:
            return np.ones(len(points), np.float32)
        pool = _noise_pool()
        start = int(rng.integers(0, len(pool) - points.size))
        directions = light.direction + light.softness * pool[start : start + points.size].reshape(points.shape)
        origins = np.ascontiguousarray(points + 0.0015 * light.direction, np.float32)
        return (self.tree.run(origins, directions, query="OCCLUDED") != 0).astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """What a camera sees of the things that do not move."""

    image: np.ndarray  # uint8 [H, W, 3], sRGB
    depth: np.ndarray  # float32 [H, W], m; inf where there is nothing near
    segment: np.ndarray  # uint8 [H, W]
    table: np.ndarray  # bool [H, W]: the table top itself is seen


@dataclass(frozen=True)
class Picture:
    """A rendered frame."""

    image: np.ndarray  # uint8 [H, W, 3], sRGB
    depth: np.ndarray  # uint16 [H, W], mm; 0 where nothing near is seen
    segment: np.ndarray  # uint8 [H, W]


def static_layer(
    camera: Camera, scene: BodyTree, light: Light, top: np.ndarray, table_size, backdrop: np.ndarray, rng
) -> Layer:
    """The table of ``table_size`` (m, x and y) with texture ``top`` [S, S, 3] and the bodies of ``scene`` upon it."""
    import cv2

    height, width = camera.height, camera.width
    directions, eye = camera.rays(), camera.centre
    with np.errstate(divide="ignore"):
        depth = -eye[2] / directions[:, 2]
    x, y = eye[0] + depth * directions[:, 0], eye[1] + depth * directions[:, 1]
    table = (depth > 0) & (np.abs(x) < table_size[0] / 2) & (np.abs(y) < table_size[1] / 2)
    depth = np.where(table, depth, np.inf).astype(np.float32).reshape(height, width)
    table = table.reshape(height, width)

    shade = light.ambient + light.colour * max(0.0, float(light.direction[2]))
    tone = (np.clip(shade, 0, 1.6) ** (1 / 2.2)).astype(np.float32)
    lit = cv2.multiply(top, (*map(float, tone), 1.0), dtype=cv2.CV_8U)
    lit = _shadowed(lit, shadow_map(scene, light, rng, TABLE_SPAN, SHADOW_CELLS * 2), light)
    warp = _table_warp(camera, TABLE_SPAN, top.shape[0])
    image = cv2.warpPerspective(lit, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image = np.where(table[..., None], image, backdrop)
    segment = np.zeros((height, width), np.uint8)
    _cast(camera, scene, light, image, depth, segment, table, rng)
    return Layer(image, depth, segment, table)


def shadow_map(scene: BodyTree, light: Light, rng, span: float = SHADOW_SPAN, cells: int = SHADOW_CELLS) -> np.ndarray:
    """float32 [cells, cells]: the part of the lamp's light that bodies keep from a square of the table (0-1)."""
    import cv2

    line = ((np.arange(cells) + 0.5) / cells - 0.5) * span
    x, y = np.meshgrid(line, line)
    points = np.stack([x.ravel(), y.ravel(), np.zeros(cells * cells)], 1).astype(np.float32)
    shadow = 1 - scene.lit(points, light, rng).reshape(cells, cells)
    return cv2.GaussianBlur(shadow, (0, 0), 1.5)


def draw(
    camera: Camera, scene: BodyTree, layer: Layer, light: Light, shadow: np.ndarray, rng, sensor_noise: float
) -> Picture:
    """One frame: ``scene``'s bodies over ``layer``, with their shadow on the table, lens blur and sensor noise."""
    import cv2

    height, width = camera.height, camera.width
    fall = cv2.warpPerspective(
        np.ascontiguousarray(_keep(shadow, light)),
        _table_warp(camera, SHADOW_SPAN, len(shadow)),
        (width, height),
        borderValue=(1, 1, 1),
    )
    image = cv2.multiply(layer.image, fall, dtype=cv2.CV_8U)
    cv2.copyTo(layer.image, (~layer.table).view(np.uint8), image)
    depth, segment = layer.depth.copy(), layer.segment.copy()
    _cast(camera, scene, light, image, depth, segment, None, rng)
    image = cv2.GaussianBlur(image, (3, 3), 0.5)
    image = _with_noise(image, sensor_noise, rng)
    millimetres = np.where(np.isfinite(depth), np.round(depth * 1000), 0).astype(np.uint16)
    return Picture(image, millimetres, segment)


def _cast(camera: Camera, scene: BodyTree, light: Light, image, depth, segment, table, rng) -> None:
    """Casts the pixels that the scene's bodies may cover and writes what is nearer than ``depth`` in place."""
    import cv2

    if not scene.bodies:
        return
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
    depth.ravel()[pixels] = z
    if table is not None:
        table.ravel()[pixels] = False

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
    segment.ravel()[pixels] = labels

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
    image.reshape(-1, 3)[pixels] = to_srgb(colour)


def _blend(values: np.ndarray, corner: np.ndarray, weights) -> np.ndarray:
    """float32 [N, K]: values [V, K] of each triangle's corners [N, 3], weighted."""
    values = np.asarray(values, np.float32)
    return sum(w * values[corner[:, k]] for k, w in enumerate(weights))


def _keep(shadow: np.ndarray, light: Light) -> np.ndarray:
    """float32 [S, S, 3]: the factor on sRGB values that is left of the table's brightness under a shadow."""
    lamp = light.colour * max(0.0, float(light.direction[2]))
    return (1 - shadow[..., None] * (lamp / (lamp + light.ambient))) ** np.float32(1 / 2.2)


def _shadowed(top: np.ndarray, shadow: np.ndarray, light: Light) -> np.ndarray:
    import cv2

    if not shadow.any():
        return top
    return cv2.multiply(top, cv2.resize(_keep(shadow, light).astype(np.float32), top.shape[1::-1]), dtype=cv2.CV_8U)


def _table_warp(camera: Camera, span: float, cells: int) -> np.ndarray:
    """float64 [3, 3]: the homography from a map of the table (cells x cells over ``span`` metres) to the image."""
    to_table = np.array(
        [[span / cells, 0, (0.5 / cells - 0.5) * span], [0, span / cells, (0.5 / cells - 0.5) * span], [0, 0, 1]]
    )
    plane = np.stack([camera.rotation[:, 0], camera.rotation[:, 1], camera.translation], 1)
    return camera.intrinsics @ plane @ to_table


@lru_cache(maxsize=1)
def _noise_pool() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 1, 2_000_003).astype(np.float32)


@lru_cache(maxsize=4)
def _noise_bytes(strength: float) -> np.ndarray:
    return np.clip(np.round(_noise_pool() * strength), -127, 127).astype(np.int16)


def _with_noise(image: np.ndarray, strength: float, rng) -> np.ndarray:
    """The image with sensor noise of a standard deviation (grey levels), a random stretch of a prepared sequence."""
    import cv2

    pool = _noise_bytes(round(strength, 1))
    start = rng.integers(0, len(pool) - image.size)
    return cv2.add(image, pool[start : start + image.size].reshape(image.shape), dtype=cv2.CV_8U)
