"""The table's texture under the lamp, and shadows upon it, as square maps. Metres, the table's frame, its top at z = 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from amt.data.synthetic.render import BodyTree, Light

TABLE_SPAN = 2.4  # m: side of the square that the table's texture and shadow cover
SHADOW_CELLS = 160
LAMP_POINTS = 6  # rays from a cell of the table's shadow to the lamp
SHADOW_SPAN = 1.2  # m: side of the square in which the hand's shadow is looked for


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

    return cv2.GaussianBlur(_light_kept(scene, Cells(span, cells), light), (0, 0), 0.7)


def shade(scene: BodyTree, light: Light) -> np.ndarray:
    """uint8 [SHADOW_CELLS, SHADOW_CELLS, 3]: what bodies leave of the brightness of a square of the table; 255 is all of it."""
    return np.round(255 * _keep(shadow_map(scene, light), light)).astype(np.uint8)


def cells_of(place: np.ndarray, span: float, count: int) -> np.ndarray:
    """float32 [H, W, 2]: columns and rows of places [H, W, 2] (m) of the table in a map of ``count`` cells, ``span`` m wide."""
    import cv2

    return cv2.addWeighted(place, count / span, place, 0, count / 2 - 0.5)


def _light_kept(scene: BodyTree, cells: Cells, light: Light) -> np.ndarray:
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
        for body in scene.bodies:
            on = body.vertices[:, :2] - body.vertices[:, 2:] * (direction[:2] / direction[2])
            corners = np.clip(cells.place(on), -4e3, 4e3).astype(np.int32)
            cv2.fillConvexPoly(region, cv2.convexHull(corners), 1)
        dark = np.flatnonzero(cv2.dilate(region, np.ones((3, 3), np.uint8)))
        origins = cells.points(dark) + np.float32(0.0015) * light.direction
        directions = np.broadcast_to(direction.astype(np.float32), origins.shape)
        hidden = scene.tree.run(origins, np.ascontiguousarray(directions), query="OCCLUDED") == 0
        kept.ravel()[dark[hidden]] += 1 / LAMP_POINTS
    return kept


def _keep(shadow: np.ndarray, light: Light) -> np.ndarray:
    """float32 [S, S, 3]: the factor on sRGB values that is left of the table's brightness under a shadow."""
    lamp = light.colour * max(0.0, float(light.direction[2]))
    return ((1 - shadow[..., None] * (lamp / (lamp + light.ambient))) ** np.float32(1 / 2.2)).astype(np.float32)
