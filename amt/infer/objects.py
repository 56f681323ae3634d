"""The object that the user says is in the hand: a YCB class, a mesh file, a box, or points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from amt.data.layout import CLASS_NAMES, DataError
from amt.data.meshes import LONGEST, box_mesh, check_extent, read_mesh, sample_surface
from amt.data.objects import MESH_SAMPLES, ObjectModels, farthest_points
from amt.infer.inputs import InputError

ObjectLike = str | int | Path | np.ndarray | tuple[float, float, float] | None


@dataclass(frozen=True)
class HeldObject:
    """What the model is told about the object."""

    class_id: int  # 1-21 as in YCB, 0 for any other or none
    name: str
    points: np.ndarray  # float32 [P, 3], m: on its surface, in its own frame; zeros where there is no object

    @property
    def known(self) -> bool:
        """Whether there is any geometry to place."""
        return bool(self.points.any())


def resolve_object(given: ObjectLike, count: int, models: str | Path | None = None) -> HeldObject:
    """The object that ``given`` stands for, as ``count`` points.

    Args:
        given: None (unknown), a YCB class id (1-21) or name ("006_mustard_bottle" or "mustard_bottle"), a mesh file (.obj;
            with trimesh .ply, .stl and others) or points [N, 3], both in metres. An object without a mesh can be its box:
            "box:0.1x0.05x0.2" or (0.1, 0.05, 0.2), metres along its x, y and z.
        count: number of points.
        models: folder with one folder a class, as DexYCB's ``models``; without it, class names stand for the built-in
            shapes of the synthetic sets, which are like the YCB objects in size only.

    Raises:
        InputError: an unknown name or class, a file that is missing or no mesh, an extent that is not in metres, or a box
            without three sides.
    """
    if given is None:
        return HeldObject(0, "unknown", np.zeros((count, 3), np.float32))
    if isinstance(given, np.ndarray):
        return HeldObject(0, "points", _spread(given, count, "object"))
    extent = _box_extent(given)
    if extent is not None:
        name = "box " + "x".join(f"{side:g}" for side in extent)
        return HeldObject(0, name, _spread(sample_surface(*box_mesh(extent), MESH_SAMPLES), count, name))
    class_id = _class_id(given)
    if class_id is not None:
        return HeldObject(
            class_id, CLASS_NAMES[class_id], _class_points(class_id, count, None if models is None else str(models))
        )
    path = Path(given)
    if not path.is_file():
        names = ", ".join(CLASS_NAMES[c] for c in list(CLASS_NAMES)[:3])
        raise InputError(
            f"{given}: neither a mesh file nor a YCB object; give a file, a class id 1-21, a name ({names}, ...) or "
            "its box (box:0.1x0.05x0.2)"
        )
    try:
        cloud = sample_surface(*read_mesh(path), MESH_SAMPLES)
    except DataError as error:
        raise InputError(str(error)) from error
    except ValueError as error:
        raise InputError(f"{path}: not a mesh that can be read ({error}); give a triangle mesh in metres") from error
    return HeldObject(0, path.stem, _spread(cloud, count, str(path)))


def _class_id(given: str | int | Path) -> int | None:
    if isinstance(given, int) or (isinstance(given, str) and given.isdecimal()):
        if int(given) not in CLASS_NAMES:
            raise InputError(f"object: class {given} is unknown; YCB classes here are 1-{max(CLASS_NAMES)}")
        return int(given)
    found = [c for c, name in CLASS_NAMES.items() if str(given) in (name, name.split("_", 1)[1])]
    return found[0] if found else None


@lru_cache(maxsize=64)
def _class_points(class_id: int, count: int, models: str | None) -> np.ndarray:
    if models is None:
        from amt.data.synthetic.objects import built_in

        return _spread(sample_surface(*built_in(class_id).mesh(), MESH_SAMPLES), count, CLASS_NAMES[class_id])
    folder = Path(models)
    try:
        return ObjectModels(folder.parent if folder.name == "models" else folder).points(class_id, count)
    except DataError as error:
        raise InputError(str(error)) from error


def _box_extent(given: ObjectLike) -> tuple[float, ...] | None:
    """The extent (m) that "box:0.1x0.05x0.2" or a tuple of three numbers names; None for anything else."""
    if isinstance(given, str) and given.startswith("box:"):
        numbers = given.removeprefix("box:").split("x")
    elif isinstance(given, tuple):
        numbers = given
    else:
        return None
    try:
        extent = tuple(float(number) for number in numbers)
    except (TypeError, ValueError):
        extent = ()
    if len(extent) != 3 or not all(0 < side <= LONGEST for side in extent):
        raise InputError(
            f"object: expected three sides above 0 and up to {LONGEST:g} m, as box:0.1x0.05x0.2 or a tuple; got {given!r}"
        )
    return extent


def _spread(cloud: np.ndarray, count: int, name: str) -> np.ndarray:
    """float32 [count, 3]: evenly spread points out of a cloud [N, 3] that is checked first."""
    cloud = np.asarray(cloud, np.float32)
    try:
        check_extent(cloud, name)
    except DataError as error:
        raise InputError(str(error)) from error
    return cloud[farthest_points(cloud, count)]
