"""Writing results without ever destroying a file that something else wrote.

A folder of results holds a list of what was written there, with size and time. Only a file on that list, unchanged since,
is replaced. Every file is written under another name first and then renamed: what is there is always whole.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from amt.errors import UserError

WRITTEN = "written-by-amt-infer.jsonl"


class OutputError(UserError, RuntimeError):
    """A result cannot be written; the message names the file and the remedy, on one line."""


@contextmanager
def together() -> Iterator[None]:
    """A block that Ctrl-C interrupts at its end only: the files written in it all hold the same pictures.

    A second Ctrl-C interrupts at once. Outside the main thread, which alone takes signals, the block is as any other.
    """
    normal = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not normal:
        yield
        return
    interrupted = False

    def note(*_) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, normal)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, normal)
    if interrupted:
        raise KeyboardInterrupt


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
        try:
            os.replace(path.with_name(f".part-{path.name}"), path)
            self.written.append(path)
            self.ours[name] = _stamp(path)
            _append(self.folder / WRITTEN, json.dumps({"file": name, "stamp": self.ours[name]}) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.folder / WRITTEN}: cannot be written ({error.strerror}), so that {name} counts as another program's; "
                "free space"
            ) from None
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
            temporary.unlink(missing_ok=True)
            raise OutputError(
                f"{self.folder / name}: cannot be written ({error.strerror}); free space or choose another --out"
            ) from None
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


class Lines:
    """A text file that grows line by line.

    A context manager: what was added stays on an error; where nothing was, an earlier run's file is left as it is.
    """

    def __init__(self, out: OutputFolder, name: str, head: str = ""):
        self.out, self.name, self.head = out, name, head
        self.temporary = out.claim(name)

    def __enter__(self) -> Self:
        try:
            self.file = open(self.temporary, "wb", buffering=0)  # a full disk is met at the line that it cannot take
        except OSError as error:
            raise self._error(error) from None
        self.count = self.size = 0
        return self

    def add_line(self, text: str) -> None:
        """Writes one line.

        Raises:
            OutputError: the disk is full, for example; the lines before stay.
        """
        line = ((self.head if not self.count else "") + text + "\n").encode()
        try:
            if self.file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._error(error) from None
        self.count, self.size = self.count + 1, self.size + len(line)

    def __exit__(self, kind, *_) -> None:
        if self.count and self.temporary.stat().st_size > self.size:
            self.file.truncate(self.size)  # a part of a line that the disk had no place for
        self.file.close()
        if not self.count:
            self.temporary.unlink()
            return
        try:
            self.out.finish(self.name)
        except OutputError:
            if kind is None:  # an error that is on its way says more
                raise

    def _error(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.out.folder / self.name}: cannot be written ({error.strerror}); free space or choose another --out"
        )


class Records(Lines):
    """``predictions.jsonl``: one JSON object a line and hand."""

    def __init__(self, out: OutputFolder, name: str = "predictions.jsonl"):
        super().__init__(out, name)

    def add(self, record: dict) -> None:
        """Writes one line. Raises ValueError for a number that is not finite, which has no place in JSON; OutputError."""
        self.add_line(json.dumps(record, allow_nan=False))


def _append(path: Path, line: str) -> None:
    """Adds a line, or nothing of it where the disk is full: half a line would make the next one unreadable."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        data = line.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


def _stamp(path: Path) -> list[int]:
    """Size and time of a file: what tells whether it is still the one that was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
