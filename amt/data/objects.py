"""Object geometry of a set: points on the surface of ``models/<name>``, chosen once and the same for everybody."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from amt.data.layout import CLASS_NAMES, DataError


class ObjectModels:
    """The object models below a set's root, read when first asked for.

    Args:
        root: the set's folder.
        names: folder names by class id where they are not YCB's.
    """

    def __init__(self, root: Path, names: dict[int, str] | None = None):
        self.folder = Path(root) / "models"
        self.names = dict(CLASS_NAMES) | (names or {})
        self.cloud = cache(self._cloud)
        self.choice = cache(self._choice)

    def points(self, class_id: int, count: int) -> np.ndarray:
        """float32 [count, 3], m: evenly spread points on the surface, in the object's own frame; zeros for class 0."""
        if class_id == 0:
            return np.zeros((count, 3), np.float32)
        return self.cloud(class_id)[self.choice(class_id, count)]

    def class_points(self, count: int) -> np.ndarray:
        """float32 [22, count, 3], m: :meth:`points` of every class that the set has a model of, zeros for the others."""
        table = np.zeros((max(CLASS_NAMES) + 1, count, 3), np.float32)
        for class_id, name in self.names.items():
            if (self.folder / name).is_dir():
                table[class_id] = self.points(class_id, count)
        return table

    def _cloud(self, class_id: int) -> np.ndarray:
        """float32 [N, 3], m: all points of points.xyz, or points sampled from the mesh where that file is missing."""
        if class_id not in self.names:
            raise DataError(f"class {class_id}: the layout knows classes 1-{max(CLASS_NAMES)}")
        folder = self.folder / self.names[class_id]
        listed, mesh = folder / "points.xyz", folder / "textured_simple.obj"
        try:
            if listed.is_file():
                return np.loadtxt(listed, dtype=np.float32, ndmin=2)[:, :3]
            if mesh.is_file():
                return sample_surface(*read_obj(mesh), 4096)
        except ValueError as error:
            raise DataError(
                f"{listed if listed.is_file() else mesh}: cannot be read ({error}); copy it anew"
            ) from error
        raise DataError(
            f"{folder}: has neither points.xyz nor textured_simple.obj; put the set's models folder in place"
        )

    def _choice(self, class_id: int, count: int) -> np.ndarray:
        """int64 [count]: which points of the cloud are taken, by farthest-point sampling."""
        return farthest_points(self.cloud(class_id), count)


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: indices of points [N, 3], each the farthest from those before it; they repeat where count > N."""
    chosen = np.empty(min(count, len(points)), np.int64)
    chosen[0] = np.argmax(((points - points.mean(0)) ** 2).sum(1))
    nearest = np.full(len(points), np.inf)
    for k in range(1, len(chosen)):
        nearest = np.minimum(nearest, ((points - points[chosen[k - 1]]) ** 2).sum(1))
        chosen[k] = np.argmax(nearest)
    return np.resize(chosen, count)


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float32 [V, 3] and triangles int64 [F, 3] of a Wavefront file; polygons are cut into fans.

    Raises:
        ValueError: without triangles.
    """
    vertices, faces = [], []
    with open(path) as lines:
        for line in lines:
            if line.startswith("v "):
                vertices.append([float(x) for x in line.split()[1:4]])
            elif line.startswith("f "):
                corner = [int(word.split("/")[0]) for word in line.split()[1:]]
                faces += [[corner[0], corner[k], corner[k + 1]] for k in range(1, len(corner) - 1)]
    if not faces:
        raise ValueError("no triangles")
    indices = np.array(faces, np.int64)
    return np.array(vertices, np.float32), np.where(indices < 0, indices + len(vertices), indices - 1)


def sample_surface(vertices: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, 3]: points spread over triangles by area, the same at every call."""
    rng = np.random.default_rng(0)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = rng.choice(len(faces), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return (a[face] + u * (b - a)[face] + v * (c - a)[face]).astype(np.float32)
