"""Object geometry: points on the surface of a set's ``models/<name>`` or of any mesh, chosen once and the same for everybody."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from amt.data.layout import CLASS_NAMES, DataError

LONGEST = 1.0  # m: no object that a hand holds is longer; a mesh in millimetres is
MESH_SAMPLES = 4096  # points that stand for a mesh before they are thinned out
_FIRST_MESHES = ("textured_simple.obj", "textured.obj")  # YCB's; any other mesh file comes after these
_MESH_SUFFIXES = (".obj", ".ply", ".stl")


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
        """float32 [N, 3], m: all points of points.xyz, or points sampled from the folder's mesh where that file is missing."""
        if class_id not in self.names:
            raise DataError(f"class {class_id}: the layout knows classes 1-{max(CLASS_NAMES)}")
        folder = self.folder / self.names[class_id]
        listed = folder / "points.xyz"
        source = listed if listed.is_file() else mesh_file(folder)
        if source is None:
            raise DataError(
                f"{folder}: has neither points.xyz nor a mesh ({', '.join(_FIRST_MESHES)}, or any "
                f"{', '.join('*' + suffix for suffix in _MESH_SUFFIXES)}); put the set's models folder in place"
            )
        try:
            if source == listed:
                cloud = np.loadtxt(listed, dtype=np.float32, ndmin=2)[:, :3]
            else:
                cloud = sample_surface(*read_mesh(source), MESH_SAMPLES)
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{source}: cannot be read ({error}); copy it anew") from error
        check_extent(cloud, str(source))
        return cloud

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


def check_extent(cloud: np.ndarray, name: str) -> None:
    """Raises DataError unless points [N, 3] are finite, at least one, and as large as what a hand holds (m)."""
    if cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud) or not np.isfinite(cloud).all():
        raise DataError(f"{name}: expected finite points [N, 3] in metres, got shape {list(cloud.shape)}")
    extent = float(np.ptp(cloud, axis=0).max())
    if not 0 < extent <= LONGEST:
        raise DataError(f"{name}: is {extent:.4g} m long; at most {LONGEST:g} m was expected; rescale it to metres")


def mesh_file(folder: Path) -> Path | None:
    """The mesh that stands for a model's folder: YCB's own names first, then by format and name."""
    for name in _FIRST_MESHES:
        if (folder / name).is_file():
            return folder / name
    found = [path for path in folder.glob("*") if path.suffix.lower() in _MESH_SUFFIXES and path.is_file()]
    return min(found, key=lambda path: (_MESH_SUFFIXES.index(path.suffix.lower()), path.name), default=None)


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float [V, 3] and triangles int [F, 3] of a mesh file; all but .obj are read with trimesh.

    Raises:
        ValueError: it is no triangle mesh.
        DataError: trimesh is needed and not installed.
    """
    if path.suffix.lower() == ".obj":
        return read_obj(path)
    try:
        import trimesh
    except ImportError:
        raise DataError(
            f"{path}: reading {path.suffix} takes trimesh; pip install trimesh, or convert it to .obj"
        ) from None
    try:
        mesh = trimesh.load(path, force="mesh")
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not len(getattr(mesh, "faces", ())):
        raise ValueError("no triangles")
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def box_mesh(extent: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float [8, 3] (m) and triangles int [12, 3] of a box about the origin, ``extent`` (m) along x, y and z."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.asarray(extent) / 2
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([triangle for a, b, c, d in sides for triangle in ((a, b, c), (a, c, d))])


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float32 [V, 3] and triangles int64 [F, 3] of a Wavefront file; polygons are cut into fans.

    Raises:
        ValueError: without triangles, or with one that names no vertex.
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
    indices = np.where(indices < 0, indices + len(vertices), indices - 1)
    if indices.min() < 0 or indices.max() >= len(vertices):
        raise ValueError(f"a triangle names a vertex that is not among the {len(vertices)}")
    return np.array(vertices, np.float32), indices


def sample_surface(vertices: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, 3]: points spread over triangles by area, the same at every call."""
    rng = np.random.default_rng(0)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = rng.choice(len(faces), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return (a[face] + u * (b - a)[face] + v * (c - a)[face]).astype(np.float32)
