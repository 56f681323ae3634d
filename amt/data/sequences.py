"""The sequences of a set in DexYCB's layout: which there are, in which order, and what their meta.yml says.

A sequence whose meta.yml is broken keeps its place among its subject's: the numbers of those behind it, and with them splits
and sample ids, stay the toolkit's.
"""

from __future__ import annotations

import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path

from amt.data.errors import DataError, FileError
from amt.data.files import read_yaml
from amt.data.layout import CLASS_NAMES, MOST_FRAMES, SERIALS, SUBJECTS, SYNTHETIC_RECORD
from amt.data.root import check_root
from amt.data.synthetic.config import finish_command


@dataclass(frozen=True)
class SequenceInfo:
    """What meta.yml says about a sequence."""

    folder: Path
    subject: int  # index into SUBJECTS
    number: int  # among its subject's sequences, in sorted order; -1 where only its folder is known
    num_frames: int
    serials: tuple[str, ...]
    class_ids: tuple[int, ...]  # the objects in the scene
    grasp: int  # index into class_ids of the one in the hand
    side: str  # "right" or "left"
    extrinsics: str
    mano_calib: str
    fault: FileError | None = None  # why meta.yml cannot be used, and so no frame of the sequence

    @property
    def class_id(self) -> int:
        """1-21: the object in the hand; 0 where the scene has none, or meta.yml cannot be used."""
        return self.class_ids[self.grasp] if self.class_ids else 0


def find_sequences(root: Path) -> list[SequenceInfo]:
    """All sequences below a set's folder, by subject and name; one whose meta.yml is broken has a ``fault``.

    Raises:
        DataError: the folder is missing, empty or not in this layout, or not one sequence can be read.
    """
    if check_root(root) != "dexycb":
        raise DataError(f"{root}: is a set in HO-3D's layout; choose it by data=ho3d")
    found = []
    for subject, name in enumerate(SUBJECTS):
        if (root / name).is_dir():
            folders = sequence_folders(root / name)
            found += [sequence_or_fault(folder, subject, number) for number, folder in enumerate(folders)]
    if not found:
        remedy = (
            "copy the set anew" if not (root / SYNTHETIC_RECORD).is_file() else f"finish it with {finish_command(root)}"
        )
        raise DataError(f"{root}: holds not one sequence (expected {SUBJECTS[0]}/<date_time>/meta.yml); {remedy}")
    faults = [info.fault for info in found if info.fault is not None]
    if len(faults) == len(found):
        raise DataError(f"{root}: not one of {len(found)} sequences can be read; the first: {faults[0]}")
    return found


def read_sequence(folder: Path, subject: int, number: int = -1) -> SequenceInfo:
    """What a sequence's meta.yml says. Raises FileError."""
    path = folder / "meta.yml"
    meta = read_yaml(path)
    for name, is_right in _META.items():
        if name not in meta:
            raise FileError(path, f"lacks {name}")
        if not is_right(meta[name]):
            raise FileError(path, f"{name} is {reprlib.repr(meta[name])}, which the layout does not know")
    class_ids, grasp = tuple(meta["ycb_ids"]), meta["ycb_grasp_ind"]
    if not 0 <= grasp < max(len(class_ids), 1):
        raise FileError(path, f"ycb_grasp_ind is {grasp}, which the layout does not know")
    return SequenceInfo(
        folder=folder,
        subject=subject,
        number=number,
        num_frames=meta["num_frames"],
        serials=tuple(str(serial) for serial in meta["serials"]),
        class_ids=class_ids,
        grasp=grasp,
        side=meta["mano_sides"][0],
        extrinsics=str(meta["extrinsics"]),
        mano_calib=str(meta["mano_calib"][0]),
    )


def sequence_or_fault(folder: Path, subject: int, number: int) -> SequenceInfo:
    """:func:`read_sequence`; where meta.yml cannot be used, a sequence with a ``fault`` whose frames are counted by files."""
    try:
        return read_sequence(folder, subject, number)
    except FileError as error:
        frames = max(_count_frames(folder / serial) for serial in SERIALS)
        return SequenceInfo(folder, subject, number, frames, SERIALS, (), 0, "right", "", "", error)


def sequence_folders(subject: Path) -> list[Path]:
    """The sequences' folders of a subject, in their order: those with a meta.yml or a camera's folder."""
    return [
        path
        for path in sorted(subject.iterdir())
        if not path.name.startswith(".")
        and path.is_dir()
        and any(os.path.lexists(path / name) for name in ("meta.yml", *SERIALS))
    ]


def _count_frames(folder: Path) -> int:
    """One more than the largest number of a picture in a camera's folder."""
    try:
        found = [re.fullmatch(r"color_(\d{6})\.jpg", name) for name in os.listdir(folder)]
    except OSError:
        return 0
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: object) -> bool:
    """Whether a value is a part of a path that leads nowhere else."""
    return _is_int(value) or (
        isinstance(value, str) and bool(re.fullmatch(r"[\w.-]{1,100}", value)) and ".." not in value
    )


_META = {  # what each field of meta.yml must be
    "num_frames": lambda v: _is_int(v) and 0 <= v <= MOST_FRAMES,
    "serials": lambda v: isinstance(v, list) and all(str(serial) in SERIALS for serial in v),
    "ycb_ids": lambda v: isinstance(v, list) and all(_is_int(c) and c in CLASS_NAMES for c in v),
    "ycb_grasp_ind": _is_int,
    "mano_sides": lambda v: isinstance(v, list) and v[:1] in (["right"], ["left"]),
    "extrinsics": _is_name,
    "mano_calib": lambda v: isinstance(v, list) and bool(v) and _is_name(v[0]),
}
