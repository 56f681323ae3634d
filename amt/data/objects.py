"""Object geometry: points on the surface of a set's ``models/<name>``, chosen once and the same for everybody."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from amt.data.errors import DataError, FileError
from amt.data.layout import CLASS_NAMES
from amt.data.meshes import LOOK, check_extent, read_mesh, sample_surface, surface_look
from amt.data.object_card import CARD, read_card
from amt.hand.objects import SYMMETRIC_CLASSES

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
        self.cloud, self.looks = cache(self._cloud), cache(self._looks)
        self.choice = cache(self._choice)
        self.symmetry, self.symmetric = cache(self._symmetry), cache(self._symmetric)

    def points(self, class_id: int, count: int) -> np.ndarray:
        """float32 [count, 3], m: evenly spread points on the surface, in the object's own frame; zeros for class 0."""
        return self.cloud(class_id)[self.choice(class_id, count)]

    def look(self, class_id: int, count: int) -> np.ndarray:
        """float32 [count, 7]: normal, colour and whether that is known of each of :meth:`points`; zeros: unknown."""
        return self.looks(class_id)[self.choice(class_id, count)]

    def _symmetry(self, class_id: int) -> tuple[tuple[str, float], ...] | None:
        """Axis and degrees (0: any rotation) after which the object looks the same; () for no rotation, None: unknown.

        What the model's object.yml says; () for YCB's objects that have none.
        """
        card = self.folder / self.names.get(class_id, "") / CARD
        if card.is_file() and (known := read_card(card).symmetry) is not None:
            return known
        other = self.names.get(class_id) != CLASS_NAMES.get(class_id, "")
        return None if other or class_id in SYMMETRIC_CLASSES else ()

    def _symmetric(self, class_id: int) -> bool:
        """Whether the object may look the same after some rotation; True also where nobody knows."""
        return self.symmetry(class_id) != ()

    def class_points(self, count: int) -> np.ndarray:
        """float32 [22, count, 3], m: :meth:`points` of every class that the set has a model of, zeros for the others."""
        return self._table(self.points, count, 3)

    def class_looks(self, count: int) -> np.ndarray:
        """float32 [22, count, 7]: :meth:`look` of every class that the set has a model of, zeros for the others."""
        return self._table(self.look, count, LOOK)

    def _table(self, of: Callable[[int, int], np.ndarray], count: int, width: int) -> np.ndarray:
        table = np.zeros((max(CLASS_NAMES) + 1, count, width), np.float32)
        for class_id, name in self.names.items():
            if (self.folder / name).is_dir():
                table[class_id] = of(class_id, count)
        return table

    def _looks(self, class_id: int) -> np.ndarray:
        """float32 [N, 7] of the cloud: columns 4 to 9 of points.xyz where it has them, else those of the folder's mesh."""
        cloud = self.cloud(class_id)
        if class_id == 0:
            return np.zeros((len(cloud), LOOK), np.float32)
        folder = self.folder / self.names[class_id]
        listed = folder / "points.xyz"
        if listed.is_file():
            columns = np.loadtxt(listed, dtype=np.float32, ndmin=2)[:, 3:9]
            if columns.shape[1] == 6 and np.isfinite(columns).all():
                return np.column_stack((columns, np.ones(len(columns), np.float32)))
        source = mesh_file(folder)
        return np.zeros((len(cloud), LOOK), np.float32) if source is None else surface_look(source, cloud)

    def _cloud(self, class_id: int) -> np.ndarray:
        """float32 [N, 3], m: all points of points.xyz, or points sampled from the folder's mesh where that file is missing."""
        if class_id == 0:  # no object, or one that is not known
            return np.zeros((1, 3), np.float32)
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
        if source == listed:
            try:
                with warnings.catch_warnings(action="ignore"):  # an empty file is told below
                    cloud = np.loadtxt(listed, dtype=np.float32, ndmin=2)[:, :3]
            except (OSError, ValueError, IndexError) as error:
                raise FileError(listed, f"cannot be read ({' '.join(str(error).split())})") from error
        else:
            cloud = sample_surface(*read_mesh(source), MESH_SAMPLES)
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


def mesh_file(folder: Path) -> Path | None:
    """The mesh that stands for a model's folder: YCB's own names first, then by format and name."""
    for name in _FIRST_MESHES:
        if (folder / name).is_file():
            return folder / name
    found = [path for path in folder.glob("*") if path.suffix.lower() in _MESH_SUFFIXES and path.is_file()]
    return min(found, key=lambda path: (_MESH_SUFFIXES.index(path.suffix.lower()), path.name), default=None)
