"""The part of an index that some lines of HO-3D's lists name: what can be used of each frame, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from amt.data.errors import EmptySubset, FileError
from amt.data.ho3d import (
    PARTS,
    camera_of,
    class_of,
    hand_fault,
    labelled_joints,
    meta_path,
    object_fields,
    read_list,
    read_meta,
)
from amt.data.layout import GRASPED_CLASSES, SUBSETS
from amt.data.parts import SetParts
from amt.data.protocols import ObjectDistances
from amt.data.scan import FRAME, Scan, look_at
from amt.data.set_folder import frame_image

_LINES = 200  # of a list, a task


class Ho3dScanner:
    """Scans lines of a set's lists.

    Args:
        decode: decode every picture and depth image; otherwise format, size and end of these files are looked at.
    """

    def __init__(self, root: Path, decode: bool = False):
        self.files = SetParts(root)
        self.check = frame_image if decode else look_at
        self.distances = ObjectDistances(self.files.objects)

    def tasks(self) -> list[tuple[str, list[tuple[str, int]]]]:
        """(subset, [(sequence, frame), ...]) by sample id. Raises DataError."""
        found = []
        for subset, (name, _) in PARTS.items():
            try:
                lines = read_list(self.files.root / name)
            except EmptySubset:
                continue
            found += [(subset, lines[k : k + _LINES]) for k in range(0, len(lines), _LINES)]
        return found

    def scan(self, subset: str, lines: list[tuple[str, int]]) -> Scan:
        """Some frames. A file that cannot be used is a problem and never an error."""
        found = Scan(np.zeros(len(lines), FRAME))
        found.frames["subset"], found.frames["subject"] = SUBSETS.index(subset), -1
        found.frames["sequence"], found.frames["grasped"] = -1, -1
        found.frames["right"], found.frames["distance"] = True, np.nan
        for frame, (sequence, number) in zip(found.frames, lines):
            folder = self.files.root / PARTS[subset][1] / sequence
            frame["frame"] = number
            frame["picture"] = _usable(found, self.check, folder / "rgb" / f"{number:04d}.jpg")
            frame["depth"] = _usable(found, self.check, folder / "depth" / f"{number:04d}.png")
            path = meta_path(folder, number)
            frame["labels"] = _usable(found, lambda path, f=frame: self._labels(path, f, found), path)
        return found

    def _labels(self, path: Path, frame: np.void, found: Scan) -> None:
        meta = read_meta(path)
        joints, class_id = labelled_joints(meta), class_of(meta)
        held = object_fields(meta, class_id)
        frame["calibrated"] = _usable(found, lambda path: camera_of(meta, path), path)
        if fault := hand_fault(meta):
            found.problems.append((path, fault))
        frame["hand"], frame["object"] = joints is not None, held["object_valid"]
        frame["grasped"] = GRASPED_CLASSES.index(class_id) if class_id in GRASPED_CLASSES else -1
        if frame["hand"] and frame["object"]:
            pose = (held["object_rotation"], held["object_translation"])
            frame["distance"] = self.distances.nearest(class_id, joints, *pose)


def _usable(found: Scan, check: Callable[[Path], object], path: Path) -> bool:
    try:
        check(path)
    except FileError as error:
        found.problems.append((error.path, error.reason))
        return False
    return True
