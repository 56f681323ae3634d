"""Videos: frames with the times of their container in, a film of constant rate that keeps their pace out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from amt.data import images
from amt.infer.checks import InputError
from amt.infer.inputs import Picture
from amt.infer.output import OutputError, OutputFolder

SCANNED = 300  # frames at the beginning that decide the film's rate
FASTEST = 60.0  # frames/s of a film whose frames come at a variable rate
LONGEST_STILL = 60.0  # s: a longer gap between two frames is shown as this much


class Video:
    """A video file, decoded while iterating.

    Attributes:
        film_rate: frames/s of a film that shows every frame at its time: the video's own rate, or where that varies the
            inverse of the shortest interval at the beginning, at most 60.
        seconds: how long the container claims to be; None where it claims nothing.

    Args:
        path: the file.
        every: only every ``every``-th frame is given.

    Raises:
        InputError: no such file, not a video, or a video without frames.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1):
        import cv2

        self.path, self.every = Path(path), every
        if not self.path.is_file():
            what = "not a file" if self.path.exists() else "no such file"
            raise InputError(f"{self.path}: {what}; check the path")
        with _quiet():
            capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise InputError(f"{self.path}: not a video that can be decoded; convert it to mp4 (H.264) and try again")
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        self._interval = 1 / rate if 0 < rate < 1000 else 1 / 30
        # The product of rate and duration in some containers, so an estimate where the rate varies.
        claimed = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.claimed_frames = claimed if claimed > 0 else None
        self.seconds = claimed * self._interval if claimed > 0 else None
        times, clock = [], Clock(self._interval)
        while len(times) < SCANNED and capture.grab():
            times.append(clock.time(capture.get(cv2.CAP_PROP_POS_MSEC)))
        capture.release()
        if not times:
            raise InputError(f"{self.path}: the video holds no frame that can be decoded; export or convert it again")
        self.film_rate = film_rate(np.array(times), self._interval)

    def __len__(self) -> int:
        return -(-(self.claimed_frames or 0) // self.every)

    def __iter__(self) -> Iterator[Picture]:
        import cv2

        with _quiet():
            capture = cv2.VideoCapture(str(self.path))
        try:
            frame, clock = 0, Clock(self._interval)
            while capture.grab():
                time_s = clock.time(capture.get(cv2.CAP_PROP_POS_MSEC))
                if frame % self.every:
                    frame += 1
                    continue
                found, image = capture.retrieve()
                if not found:
                    return
                yield Picture(f"{frame:06d}", cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.path, frame, time_s)
                frame += 1
        finally:
            capture.release()

    def ends_early(self, time_s: float) -> bool:
        """Whether a last frame at ``time_s`` leaves out more than a twentieth of what the container claims."""
        return self.seconds is not None and time_s + self.every * self._interval < 0.95 * self.seconds


class LiveCamera:
    """A camera of this machine, read until Ctrl-C or until it gives no more pictures. Times are those of this machine's clock.

    Args:
        number: of the camera, as the system counts.
        every: only every ``every``-th picture is given.

    Raises:
        InputError: there is no such camera, or another program uses it.
    """

    film_rate, seconds = 30.0, None

    def __init__(self, number: int, every: int = 1):
        import cv2

        self.path, self.every = Path(f"camera:{number}"), every
        with _quiet():
            self.capture = cv2.VideoCapture(number)
        if not self.capture.isOpened():
            raise InputError(f"{self.path}: no such camera, or another program uses it; see /dev/video*")
        self.capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what is shown is now

    def __len__(self) -> int:
        return 0  # nobody knows

    def __iter__(self) -> Iterator[Picture]:
        import cv2

        frame, start = 0, None
        try:
            while self.capture.grab():
                now = time.monotonic()
                start = now if start is None else start
                if frame % self.every == 0:
                    found, image = self.capture.retrieve()
                    if not found:
                        return
                    yield Picture(f"{frame:06d}", cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.path, frame, now - start)
                frame += 1
        finally:
            self.capture.release()

    def ends_early(self, time_s: float) -> bool:
        """False: nobody knows when a camera ends."""
        return False


@contextmanager
def _quiet():
    """Keeps OpenCV and FFmpeg from printing. OpenCV asks for FFmpeg's level once, when it first opens a video."""
    name = "OPENCV_FFMPEG_LOGLEVEL"
    given = os.environ.get(name)
    os.environ[name] = given or "-8"
    try:
        with images.quiet():
            yield
    finally:
        if given is None:
            del os.environ[name]


class Clock:
    """Seconds since the beginning, from a container's milliseconds; frames without a usable time follow at ``interval`` (s).

    Some containers give no times, or none for the last frame: a time that does not come after the one before is replaced.
    """

    def __init__(self, interval: float):
        self.interval, self.last = interval, None

    def time(self, milliseconds: float) -> float:
        """The next frame's time; times increase."""
        seconds = milliseconds / 1000
        if not math.isfinite(seconds) or seconds < 0:
            seconds = -math.inf
        if self.last is None:
            self.last = max(seconds, 0.0)
        else:
            self.last = seconds if seconds > self.last else self.last + self.interval
        return self.last


def film_rate(times: np.ndarray, interval: float) -> float:
    """Frames/s of a film for frames at ``times`` [N] (s).

    1 / ``interval`` where the times fit it, else the inverse of the shortest interval between two of them, at most 60.
    """
    since = times - times[0]
    if np.abs(since - interval * np.arange(len(since))).max() < interval / 2:
        return 1 / interval
    return min(FASTEST, 1 / float(np.diff(since).min()))


def fitted_into(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture, uint8 [H, W, 3], scaled into a page of ``width`` x ``height`` px with black borders; cut by one px alone."""
    import cv2

    if picture.shape[0] // 2 * 2 == height and picture.shape[1] // 2 * 2 == width:
        return np.ascontiguousarray(picture[:height, :width])
    zoom = min(width / picture.shape[1], height / picture.shape[0])
    inner = (max(1, round(picture.shape[1] * zoom)), max(1, round(picture.shape[0] * zoom)))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    page = np.zeros((height, width, 3), np.uint8)
    page[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return page


class VideoFile:
    """An mp4 (MPEG-4) of constant rate; the first picture decides its size, made even.

    Each picture is repeated until the next one's time. Of pictures closer than the rate can show, the last is shown. A
    picture of another size is scaled into the first one's, with black borders.

    A context manager: what was added stays on an error, and no file is left where nothing was added.
    """

    def __init__(self, out: OutputFolder, name: str, frames_per_second: float):
        self.out, self.name, self.rate = out, name, frames_per_second
        self.temporary = out.claim(name)
        self.writer, self.pending, self.slots = None, None, 0

    def __enter__(self) -> VideoFile:
        return self

    def add(self, picture: np.ndarray, time_s: float) -> None:
        """Adds a picture, uint8 [H, W, 3], RGB, that is shown from ``time_s`` on; times increase.

        Raises:
            OutputError: OpenCV brings no encoder for mp4.
        """
        import cv2

        if self.writer is None:
            self._open(picture)
            self.start = time_s
        slot = round((time_s - self.start) * self.rate)
        if self.pending is not None:
            self._write(min(slot - self.slot, round(LONGEST_STILL * self.rate)))
        self.pending, self.slot = cv2.cvtColor(fitted_into(picture, *self.size), cv2.COLOR_RGB2BGR), slot

    def _open(self, picture: np.ndarray) -> None:
        import cv2

        self.size = (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
        with _quiet():
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.rate, self.size)
        if not self.writer.isOpened():
            raise OutputError(
                f"{self.out.folder / self.name}: cannot be written; free space on the disk, install "
                "opencv-python-headless (which brings an mp4 encoder), or add --no-draw"
            )

    def _write(self, times: int) -> None:
        for _ in range(times):
            self.writer.write(self.pending)
        self.slots += max(0, times)

    def __exit__(self, kind, *_) -> None:
        if self.writer is None:
            return
        if self.pending is not None:
            self._write(1)
        self.writer.release()
        whole = self._is_whole()
        if whole:
            self.out.finish(self.name)
            return
        self.temporary.unlink(missing_ok=True)
        if kind is None:  # an error that is on its way says more
            raise OutputError(f"{self.out.folder / self.name}: cannot be written whole; free space on the disk")

    def _is_whole(self) -> bool:
        """OpenCV's writer tells no error, of a full disk for example: the file does."""
        import cv2

        with _quiet():
            capture = cv2.VideoCapture(str(self.temporary))
        counted = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        return counted == self.slots
