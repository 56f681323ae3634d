"""Arrays that grow row by row in files that can be read at any moment, and the row of a hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np

from amt.infer.output import OutputError
from amt.infer.result import Result
from amt.infer.writers.entry import Entry, Setup


class GrowingArray:
    """A .npy file that gets a row at a time. NumPy leaves room for the count in its header, which is renewed after each row."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype | type):
        self.path, self.shape, self.dtype, self.count = path, shape, np.dtype(dtype), 0
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115 (Rows closes it)
        self._write_header()

    def append(self, row: object) -> None:
        """Adds a row of the array's shape. Raises OSError, and ValueError for another shape."""
        array = np.asarray(row, self.dtype)
        if array.shape != self.shape:
            raise ValueError(f"{self.path.name}: expected a row {list(self.shape)}, got {list(array.shape)}")
        self.file.seek(0, os.SEEK_END)
        data = array.tobytes()
        if self.file.write(data) != len(data):
            raise OSError(28, os.strerror(28))
        self.count += 1
        self._write_header()

    def _write_header(self) -> None:
        header = BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(header, described | {"shape": (self.count, *self.shape)})
        self.file.seek(0)
        self.file.write(header.getvalue())


class Rows:
    """A folder of :class:`GrowingArray`, one a column; a context manager that removes it unless the block raises.

    Args:
        folder: made anew; one of a run that was killed is replaced.
    """

    def __init__(self, folder: Path):
        self.folder, self.columns = folder, {}

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir()
        except OSError as error:
            raise self._error(error) from None
        return self

    def append(self, row: Mapping[str, np.ndarray]) -> None:
        """Adds a row; the first one decides names, shapes and types. Raises OutputError."""
        try:
            if not self.columns:
                self.columns = {
                    name: GrowingArray(self.folder / f"{name}.npy", value.shape, value.dtype)
                    for name, value in row.items()
                }
            for name, value in row.items():
                self.columns[name].append(value)
        except OSError as error:
            raise self._error(error) from None

    def __len__(self) -> int:
        return min((column.count for column in self.columns.values()), default=0)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column as it is on disk, [N, ...]."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def __exit__(self, kind, *_) -> None:
        for column in self.columns.values():
            column.file.close()
        if kind is None or not self.columns:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"{self.folder}: cannot be written ({error.strerror}); free space or choose another --out")


def row_of(entry: Entry, which: int, setup: Setup) -> dict[str, np.ndarray]:
    """All that is known of one hand in one picture, in columns of fixed shapes; NaN and -1 stand for what is missing."""
    picture, result, record = entry.picture, entry.results[which], entry.records[which]
    number = entry.numbers[which]
    vertices, points = setup.num_vertices, setup.num_points
    row = {
        "picture": np.int64(entry.index),
        "frame": np.int64(-1 if picture.frame is None else picture.frame),
        "time_s": np.float64(np.nan if picture.time_s is None else picture.time_s),
        "hand": np.int64(-1 if number is None else number),
        "is_right": np.bool_(result.side == "right"),
        "hand_found": np.bool_(result.hand_found),
        "intrinsics_px": np.asarray(result.intrinsics, np.float64),
        "intrinsics_assumed": np.bool_(record.get("intrinsics_source") in ("assumed", "fov", "exif")),
        "box_px": np.asarray(result.box, np.float32),
        "spread": np.float32(result.spread),
    }
    held = result.has_object and result.hand_found
    hand = {
        "joints_m": (result.joints, (21, 3)),
        "joints_px": (result.joints_2d, (21, 2)),
        "visibility": (result.visibility, (21,)),
        "sigma_mm": (result.sigma_mm, (21,)),
        "vertices_m": (result.vertices, (vertices, 3)),
        "mano_pose_rad": (result.pose, (48,)),
        "mano_betas": (result.betas, (10,)),
        "mano_translation_m": (result.translation, (3,)),
        "mano_joints_m": (result.mano_joints, (21, 3)),
        "hand_contact": (result.hand_contact, (vertices,)),
        "object_rotation": (result.object_rotation if held else None, (3, 3)),
        "object_translation_m": (result.object_translation if held else None, (3,)),
        "object_points_m": (result.object_points if held else None, (points, 3)),
        "object_contact": (result.object_contact if held else None, (points,)),
    }
    for name, (value, shape) in hand.items():
        row[name] = _or_nan(value if result.hand_found else None, shape)
    row["object_class"] = np.int64(result.object_class if held else -1)
    row["object_class_seen"] = np.int64(result.object_class_seen if result.hand_found else -1)
    return row | robot_row(entry, which, setup)


def robot_row(entry: Entry, which: int, setup: Setup) -> dict[str, np.ndarray]:
    """The robot's hand that follows this one; nothing where none was asked for."""
    if setup.robot is None:
        return {}
    motion = entry.robots[which]
    return {
        "robot_joints_rad": _or_nan(None if motion is None else motion.angles, (len(setup.robot.joint_names),)),
        "robot_palm": _or_nan(None if motion is None else motion.palm, (4, 4)),
        "robot_tip_error_mm": _or_nan(None if motion is None else motion.tip_error_mm, (len(setup.robot.fingers),)),
    }


def _or_nan(value: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32) if value is None else np.asarray(value, np.float32)


def is_seen(result: Result) -> bool:
    """Whether there is a hand whose numbers can be used."""
    return result.hand_found and bool(np.isfinite(result.joints).all())
