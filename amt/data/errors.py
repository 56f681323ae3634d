"""What can be wrong with a set, a folder or a file. Each error is one line that names the thing and the remedy.

Programs catch :class:`DataError`. Code that decides what to do next catches one of its subclasses and never reads a message.
"""

from __future__ import annotations

from pathlib import Path

from amt.errors import UserError


class DataError(UserError, ValueError):
    """A set, a folder or a file cannot be used."""


class EmptySubset(DataError):
    """The set can be read, but no frame of it belongs to the subset that was asked for."""


class TooManyBroken(DataError):
    """More frames of a set cannot be read than a training may lose."""


class MissingHand(DataError):
    """The set's hands are MANO's, and the files of MANO are not at hand."""


class FileError(DataError):
    """One file cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it; the same words for every file with the same fault, so that faults can be counted.
        remedy: what to do about it.
    """

    def __init__(self, path: str | Path, reason: str, remedy: str = "copy it anew"):
        super().__init__(path, reason, remedy)  # the three arguments make the error picklable
        self.path, self.reason, self.remedy = Path(path), reason, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.remedy}"


class ImageError(FileError):
    """A file is not a picture that can be decoded whole."""


class BrokenFrame(FileError):
    """A frame of a set whose picture or labels are missing, damaged, or contradict the calibration."""
