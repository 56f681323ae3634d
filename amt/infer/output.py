"""Writing results without ever destroying a file that something else wrote.

A folder of results holds a list of what was written there, with size and time. Only a file on that list, unchanged since,
is replaced. Every file is written under another name first and then renamed: what is there is always whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

WRITTEN = "written-by-amt-infer.jsonl"


class OutputError(RuntimeError):
    """A result cannot be written; the message names the file and the remedy, on one line."""


class OutputFolder:
    """The folder that one run writes into.

    Args:
        folder: made where it does not exist.
        overwrite: replace files that an earlier run of this program did not write, too.

    Raises:
        OutputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike, overwrite: bool = False):
        self.folder, self.overwrite = Path(folder), overwrite
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made ({error.strerror}); choose another --out") from None
        if not os.access(self.folder, os.W_OK):
            raise OutputError(f"{self.folder}: not writable; choose another --out")
        self.ours = self._read_list()
        self.written: list[Path] = []

    def claim(self, name: str) -> Path:
        """The temporary path to write ``name`` to; :meth:`finish` gives it its name.

        Raises:
            OutputError: a file of that name exists and was not written by this program, or was changed since.
        """
        if Path(name).name != name:
            raise ValueError(f"name: expected a file name without folders, got {name!r}")
        path = self.folder / name
        if path.exists() and not self.overwrite and self.ours.get(name) != _stamp(path):
            raise OutputError(
                f"{path}: exists and was not written by amt.infer; choose another --out or add --overwrite"
            )
        return path.with_name(f".part-{path.name}")

    def finish(self, name: str) -> Path:
        """Renames what was written to the path that :meth:`claim` gave, and puts it on the list."""
        path = self.folder / name
        os.replace(path.with_name(f".part-{path.name}"), path)
        self.ours[name] = _stamp(path)
        with open(self.folder / WRITTEN, "a", encoding="utf-8") as record:
            record.write(json.dumps({"file": name, "stamp": self.ours[name]}) + "\n")
        self.written.append(path)
        return path

    def picture(self, name: str, image: np.ndarray) -> Path:
        """Writes ``image`` (uint8 [H, W, 3], RGB) as the PNG or JPEG file ``name``."""
        import cv2

        temporary = self.claim(name)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if temporary.suffix == ".jpg" else []
        encoded, data = cv2.imencode(temporary.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        if not encoded:
            raise OutputError(f"{self.folder / name}: cannot be encoded as {temporary.suffix}")
        try:
            temporary.write_bytes(data.tobytes())
        except OSError as error:
            raise OutputError(f"{self.folder / name}: cannot be written ({error.strerror})") from None
        return self.finish(name)

    def _read_list(self) -> dict[str, list[int]]:
        try:
            lines = (self.folder / WRITTEN).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        known = {}
        for line in lines:
            try:
                entry = json.loads(line)
                known[entry["file"]] = entry["stamp"]
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was killed: that file then counts as somebody else's
        return known


class Records:
    """``predictions.jsonl``: one JSON object a line and image.

    A context manager: what was added stays on an error; where nothing was, an earlier run's file is left as it is.
    """

    def __init__(self, out: OutputFolder, name: str = "predictions.jsonl"):
        self.out, self.name = out, name
        self.temporary = out.claim(name)

    def __enter__(self) -> Records:
        self.file = open(self.temporary, "w", encoding="utf-8")
        self.count = 0
        return self

    def add(self, record: dict) -> None:
        """Writes one line; numbers that are not finite have no place in JSON and raise ValueError."""
        self.file.write(json.dumps(record, allow_nan=False) + "\n")
        self.count += 1

    def __exit__(self, *_) -> None:
        self.file.close()
        if self.count:
            self.out.finish(self.name)
        else:
            self.temporary.unlink()


class VideoFile:
    """An mp4 (MPEG-4) that frames of one size are added to; the size is the first frame's, made even.

    A context manager; what was added stays on an error, and no file is left where nothing was added.
    """

    def __init__(self, out: OutputFolder, name: str, frames_per_second: float):
        self.out, self.name, self.rate = out, name, frames_per_second
        self.temporary = out.claim(name)
        self.writer = None

    def __enter__(self) -> VideoFile:
        return self

    def add(self, picture: np.ndarray) -> None:
        """Adds a frame, uint8 [H, W, 3], RGB.

        Raises:
            OutputError: OpenCV brings no encoder for mp4.
        """
        import cv2

        if self.writer is None:
            self.size = (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.rate, self.size)
            if not self.writer.isOpened():
                raise OutputError(
                    f"{self.out.folder / self.name}: this OpenCV cannot write mp4; install opencv-python-headless, "
                    "or add --no-draw"
                )
        self.writer.write(cv2.cvtColor(picture[: self.size[1], : self.size[0]], cv2.COLOR_RGB2BGR))

    def __exit__(self, *_) -> None:
        if self.writer is not None and self.temporary.exists():
            self.writer.release()
            self.out.finish(self.name)


def _stamp(path: Path) -> list[int]:
    """Size and time of a file: what tells whether it is still the one that was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
