"""The object that the user says is in the hand: a YCB class, a mesh file, a box, or points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np

from amt.data.layout import CLASS_NAMES, DataError
from amt.data.meshes import LONGEST, box_mesh, check_extent, read_mesh, sample_surface, surface_look
from amt.data.objects import MESH_SAMPLES, ObjectModels, farthest_points
from amt.infer.checks import InputError

SHORTEST = 0.001  # m: side of a box

# Numbers are all that NumPy converts: a class id, three sides, or points.
ObjectLike = str | Path | int | Sequence | np.ndarray | None


@dataclass(frozen=True)
class HeldObject:
    """What the model is told about the object."""

    class_id: int  # 1-21 as in YCB, 0 for any other or none
    name: str
    points: np.ndarray  # float32 [P, 3], m: on its surface, in its own frame; zeros where there is no object
    look: np.ndarray | None = None  # float32 [P, 7]: how the points look, see amt.hand.batch.Inputs; None: nobody knows

    @property
    def known(self) -> bool:
        """Whether there is any geometry to place."""
        return bool(self.points.any())


def resolve_object(given: ObjectLike | HeldObject, count: int, models: str | Path | None = None) -> HeldObject:
    """The object that ``given`` stands for, as ``count`` points.

    Args:
        given: None (unknown), a YCB class id (1-21) or name ("006_mustard_bottle" or "mustard_bottle"), a mesh file (.obj;
            with trimesh .ply, .stl and others) or points [N, 3], both in metres. An object without a mesh can be its box:
            "box:0.1x0.05x0.2" or three numbers (0.1, 0.05, 0.2), metres along its x, y and z. Numbers may be Python's, lists
            or tuples of them, NumPy's or tensors.
        count: number of points.
        models: folder with one folder a class, as DexYCB's ``models``, or a set's folder. Without it, class names stand for
            the built-in shapes of the synthetic sets, which are like the YCB objects in size only.

    Raises:
        InputError: an unknown name or class, a file that is missing or no mesh, an extent that is not in metres, or a box
            without three sides.
    """
    if given is None:
        return HeldObject(0, "unknown", np.zeros((count, 3), np.float32))
    if isinstance(given, HeldObject):
        return given
    if isinstance(given, str) and given.startswith("box:"):
        return _box(given.removeprefix("box:").split("x"), given, count)
    if isinstance(given, str) and given.isdecimal():
        return _of_class(int(given), count, models)
    if isinstance(given, (str, PathLike)):
        return _named(given, count, models)
    numbers = _array(given)
    if numbers.ndim == 0 and numbers.dtype.kind in "iu":
        return _of_class(int(numbers), count, models)
    if numbers.shape == (3,):
        return _box(numbers.tolist(), given, count)
    if numbers.ndim == 2:
        return HeldObject(0, "points", _spread(numbers, count, "object"))
    raise InputError(f"object: {_FORMS}; got {_short(given)}")


_FORMS = "expected a class id 1-21, a YCB name, a mesh file, three sides in metres (box:0.1x0.05x0.2) or points [N, 3] in metres"


def _array(given: object) -> np.ndarray:
    """Numbers of any shape; tensors come from their device."""
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    try:
        numbers = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InputError(f"object: {_FORMS}; got {_short(given)}") from error
    if numbers.dtype.kind not in "iuf":
        raise InputError(f"object: {_FORMS}; got {_short(given)}")
    return numbers


def _short(given: object) -> str:
    text = " ".join(repr(given).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _named(given: str | PathLike, count: int, models: str | Path | None) -> HeldObject:
    """An object of YCB by its name, or a mesh file."""
    for class_id, name in CLASS_NAMES.items():
        if str(given) in (name, name.split("_", 1)[1]):
            return _of_class(class_id, count, models)
    path = Path(given)
    if not path.is_file():
        names = ", ".join(CLASS_NAMES[c] for c in list(CLASS_NAMES)[:3])
        raise InputError(
            f"object: {_short(str(given))} is neither a mesh file nor a YCB object; give a file, a class id 1-21, a name "
            f"({names}, ...) or its box (box:0.1x0.05x0.2)"
        )
    try:
        cloud = sample_surface(*read_mesh(path), MESH_SAMPLES)
        points = _spread(cloud, count, str(path))
        return HeldObject(0, path.stem, points, surface_look(path, points))
    except DataError as error:
        raise InputError(str(error)) from error


def _of_class(class_id: int, count: int, models: str | Path | None) -> HeldObject:
    if class_id not in CLASS_NAMES:
        raise InputError(f"object: class {class_id} is unknown; YCB classes here are 1-{max(CLASS_NAMES)}")
    points, look = _class_points(class_id, count, None if models is None else str(models))
    return HeldObject(class_id, CLASS_NAMES[class_id], points, look)


def _box(sides: Sequence, given: ObjectLike, count: int) -> HeldObject:
    """A box of three sides (m)."""
    try:
        extent = tuple(float(side) for side in sides)
    except (TypeError, ValueError):
        extent = ()
    if len(extent) != 3 or not all(SHORTEST <= side <= LONGEST for side in extent):
        raise InputError(
            f"object: expected three sides of {SHORTEST:g} to {LONGEST:g} m, as box:0.1x0.05x0.2 or (0.1, 0.05, 0.2); "
            f"got {_short(given)}"
        )
    name = "box " + "x".join(f"{side:g}" for side in extent)
    return HeldObject(0, name, _spread(sample_surface(*box_mesh(extent), MESH_SAMPLES), count, name))


@lru_cache(maxsize=64)
def _class_points(class_id: int, count: int, models: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    if models is None:
        from amt.data.synthetic.objects import built_in

        # The real object has the size of the built-in shape, not its print: nothing is known of its look.
        return _spread(sample_surface(*built_in(class_id).mesh(), MESH_SAMPLES), count, CLASS_NAMES[class_id]), None
    shapes = ObjectModels(Path(models))
    if not shapes.folder.is_dir():
        shapes.folder = Path(models)  # not a set's folder, but its ``models`` or one like it
    try:
        return shapes.points(class_id, count), shapes.look(class_id, count)
    except DataError as error:
        raise InputError(str(error)) from error


def _spread(cloud: np.ndarray, count: int, name: str) -> np.ndarray:
    """float32 [count, 3]: evenly spread points out of a cloud [N, 3] that is checked first."""
    cloud = np.asarray(cloud, np.float32)
    try:
        check_extent(cloud, name)
    except DataError as error:
        raise InputError(str(error)) from error
    return cloud[farthest_points(cloud, count)]
