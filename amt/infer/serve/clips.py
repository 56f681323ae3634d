"""A clip of a stranger, decoded by another process (:mod:`amt.infer.serve.decoder`)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import amt
from amt.infer.checks import InputError
from amt.infer.inputs import Picture
from amt.infer.serve.decoder import FRAME
from amt.infer.serve.uploads import Limits, Refused

LONGEST_HEAD = 1 << 16  # bytes
# One thread each, and few arenas of memory: the decoder's addresses are bounded.
FEW = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class DecodedClip:
    """The frames of a clip; to be closed.

    Attributes:
        film_rate: frames/s, as :class:`amt.infer.video.Video` tells it.
        frames: as many as the container claims, at most ``limits.frames``.
        broken_off: whether the decoder died before the clip's end.

    Args:
        path: the file.
        limits: of frames, of their pixels, and of the time that the decoder may take for one.

    Raises:
        InputError: it is no clip that can be decoded; Refused: its frames are too large.
    """

    def __init__(self, path: Path, limits: Limits):
        self.path, self.limits, self.broken_off = path, limits, False
        place = str(Path(amt.__file__).parents[1])
        command = [
            sys.executable,
            "-m",
            "amt.infer.serve.decoder",
            str(path),
            str(limits.clip_pixels),
            str(limits.frames + 1),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | FEW | {"PYTHONPATH": os.pathsep.join((place, *sys.path))},
        )
        self._reading, self._poll = threading.Lock(), select.poll()
        self._poll.register(self.process.stdout, select.POLLIN)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        length = self._read(4)
        data = None if length is None else self._read(min(int.from_bytes(length, "little"), LONGEST_HEAD))
        if data is None:
            raise InputError(f"{self.path}: its decoder gave up; convert it to mp4 (H.264) and try again")
        head = json.loads(data)
        if "error" in head:
            raise InputError(head["error"])
        if "size" in head:
            width, height = head["size"]
            most = self.limits.clip_pixels // 10**6
            raise Refused(
                413,
                f"the clip's frames have {width} x {height} px; at most {most} megapixels are taken, make it smaller",
            )
        self.film_rate = float(head["rate"])
        self.frames = min(int(head["frames"]) or self.limits.frames, self.limits.frames)

    def __iter__(self) -> Iterator[Picture]:
        while (start := self._read(FRAME.size)) is not None:
            number, time_s, height, width = FRAME.unpack(start)
            pixels = self._read(height * width * 3)
            if pixels is None:
                break
            image = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
            yield Picture(f"{number:06d}", image, self.path, number, time_s)
        self.broken_off = self.process.wait(timeout=self.limits.patience_s) != 0

    def _read(self, size: int) -> bytearray | None:
        """The next bytes; None at the end. Raises InputError where none come for ``patience_s``."""
        found = bytearray(size)
        view, at = memoryview(found), 0
        with self._reading:
            while at < size:
                if self.process.stdout.closed:
                    return None
                if not self._poll.poll(1000 * self.limits.patience_s):
                    raise InputError(
                        f"{self.path}: its decoder takes too long; convert it to mp4 (H.264) and try again"
                    )
                count = os.readv(self.process.stdout.fileno(), [view[at:]])
                if count == 0:
                    return None
                at += count
        return found

    def close(self) -> None:
        """Ends the decoder; a thread that reads from it meets the end."""
        self.process.kill()
        self.process.wait()
        with self._reading:
            self.process.stdout.close()
