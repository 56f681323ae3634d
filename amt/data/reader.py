"""What the crop cache and the loader ask of a reader, whatever the layout of its set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt.data.errors import BrokenFrame, DataError, TooManyBroken
from amt.data.parts import SetParts

if TYPE_CHECKING:
    from amt.data.sequences import SequenceInfo
    from amt.data.set_folder import Frame


class Reader(SetParts):
    """A subset of a set: ``len``, ``[i] -> Frame``, hands and objects.

    Attributes:
        split, subset: what was chosen; part of the crop cache's name.
        sides: the hands that occur.
        shared_folders: below the root, with files that many frames share.
        frame_files: how the names of a frame's files begin, in :meth:`frame_folders`.
        most_broken: share of the frames; :meth:`readable` stops where more cannot be read.
    """

    split: str
    subset: str
    sides: tuple[str, ...] = ("right", "left")
    shared_folders: tuple[str, ...] = ("calibration", "models")
    frame_files: tuple[str, ...] = ("",)
    most_broken: float = 1.0
    limit: list[int] | None = None  # set where only some frames are read; part of the crop cache's name

    def __init__(self, root: str | Path, mano: str | Path | None = None):
        super().__init__(root, mano)
        self._lost: set[int] = set()  # frames that readable() met and could not read

    def __reduce__(self):
        return type(self), (self.root, self.split, self.subset, self.mano)  # a process that cuts opens the set anew

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Frame:
        """Labels of one sample; its picture is read by the frame's methods. Raises BrokenFrame."""
        raise NotImplementedError

    def locate(self, index: int) -> tuple[SequenceInfo, int, int]:
        """The sequence, the camera (index into SERIALS) and the frame number of a sample, from the index alone."""
        raise NotImplementedError

    def frame_at(self, index: int) -> Frame:
        """The frame with this index, whether or not only some frames are read (SomeFrames). Raises BrokenFrame."""
        return self[index]

    def frame_folders(self) -> list[Path]:
        """The folders that hold the subset's pictures and labels, in the order of the index."""
        raise NotImplementedError

    def shared_files(self) -> Iterable[Path]:
        """Files outside of :attr:`shared_folders` that several frames share."""
        return ()

    def readable(self, index: int) -> tuple[Frame, np.ndarray]:
        """A frame and its picture; where one cannot be read, the next that can (cyclically), the same for everybody.

        Every broken file is counted in :attr:`broken`; the first of each kind of fault is named in a warning.

        Raises:
            TooManyBroken: more than :attr:`most_broken` of the frames could not be read so far.
            DataError: if no frame at all can be read.
        """
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                frame = self[place]
                return frame, frame.image()
            except BrokenFrame as error:
                self.note_broken(error)
                self._lost.add(place)
                check_broken(self, len(self._lost))
        raise DataError(
            f"{self.root}: not one of {len(self)} frames of {self.split} {self.subset} can be used: {self.report()}"
        )


def check_broken(reader: Reader, lost: int, report: str | None = None) -> None:
    """Raises TooManyBroken where more frames are lost than ``reader.most_broken`` allows."""
    if lost > reader.most_broken * len(reader):
        raise TooManyBroken(
            f"{reader.root}: {lost} of {len(reader)} frames of {reader.split} {reader.subset} ({lost / len(reader):.1%}) cannot "
            f"be read, and data.most_broken={reader.most_broken:g} allows {reader.most_broken:.1%}; mend the files (python -m "
            f"amt.data.index names each), or allow more: {report or reader.report()}"
        )
