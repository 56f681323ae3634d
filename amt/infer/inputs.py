"""Images and videos from disk, and an error of one line, with the file's name and the remedy, for whatever is not one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
RESERVED = ("overview",)  # a name that a picture of all images takes
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class InputError(ValueError):
    """Something that the user gave cannot be used; the message names it and the remedy, on one line."""


@dataclass(frozen=True)
class Picture:
    """One image of a source."""

    name: str  # a stem for files that are written about it
    image: np.ndarray  # uint8 [H, W, 3], RGB
    path: Path  # the image's file, or the video's
    frame: int | None = None  # index in a video
    time_s: float | None = None  # since the start of the video


def read_image(path: str | os.PathLike) -> np.ndarray:
    """uint8 [H, W, 3], RGB, turned upright as the file's EXIF data say.

    Raises:
        InputError: the file is missing, empty, not an image, or breaks off before its end.
    """
    import cv2

    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if not data:
        raise InputError(f"{path}: the file is empty; copy or export the image again")
    if _breaks_off(data):
        raise InputError(f"{path}: the image breaks off before its end (truncated file); copy or export it again")
    with _quiet():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
    if image is None:
        raise InputError(
            f"{path}: not an image that can be decoded; give one of {', '.join(s[1:] for s in IMAGE_SUFFIXES)}, "
            f"or a video ({', '.join(s[1:] for s in VIDEO_SUFFIXES)})"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Images:
    """Image files, read one by one while iterating; a file that cannot be read raises InputError at its turn."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self.names = _distinct_names(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Picture:
        """The picture at ``index``; raises InputError where its file cannot be read."""
        path = self.paths[index]
        return Picture(self.names[index], read_image(path), path)


class Video:
    """A video file, decoded while iterating.

    Raises:
        InputError: no such file, not a video, or a video without frames.
    """

    def __init__(self, path: str | os.PathLike):
        import cv2

        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; check the path")
        with _quiet():
            capture = cv2.VideoCapture(str(self.path))
            opened = capture.isOpened()
            first = capture.read()[0] if opened else False
        if not opened:
            raise InputError(f"{self.path}: not a video that can be decoded; convert it to mp4 (H.264) and try again")
        if not first:
            raise InputError(f"{self.path}: the video holds no frame that can be decoded; export or convert it again")
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        self.frames_per_second = rate if 0 < rate < 1000 else 30.0
        # What the container claims; files of some recorders claim nothing, and broken ones too much.
        claimed = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.claimed_frames = claimed if claimed > 0 else None
        capture.release()

    def __len__(self) -> int:
        return self.claimed_frames or 0

    def __iter__(self) -> Iterator[Picture]:
        import cv2

        with _quiet():
            capture = cv2.VideoCapture(str(self.path))
        try:
            frame = 0
            while True:
                found, image = capture.read()
                if not found:
                    return
                rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                yield Picture(f"{frame:06d}", rgb, self.path, frame, frame / self.frames_per_second)
                frame += 1
        finally:
            capture.release()


def open_source(inputs: Sequence[str]) -> Images | Video:
    """The images, or the one video, that the paths, folders and patterns of a command line name.

    Raises:
        InputError: a path that does not exist, a folder or pattern without images, a video among other inputs.
    """
    paths: list[Path] = []
    for given in inputs:
        paths += _expand(given)
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        if len(paths) > 1:
            raise InputError(f"{videos[0]}: a video is taken alone; run once for each video, and once for the images")
        return Video(videos[0])
    return Images(paths)


def _expand(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not found:
            kinds = ", ".join(s[1:] for s in IMAGE_SUFFIXES)
            raise InputError(f"{path}: the folder holds no image ({kinds}); give the folder that holds the frames")
        # A camera's folder of a data set holds depth beside colour.
        return [p for p in found if p.name.startswith("color_")] or found
    if path.exists():
        return [path]
    if any(c in given for c in "*?["):
        found = sorted(Path(p) for p in glob(given, recursive=True) if Path(p).is_file())
        found = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES]
        if not found:
            raise InputError(f"{given}: no image matches this pattern; check it")
        return found
    raise InputError(f"{path}: no such file or folder; check the path")


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """File stems; where two are the same, as many parent folders in front as it takes, or a number behind."""
    names = [path.stem for path in paths]
    for depth in range(1, 12):
        count = Counter(names)
        if len(count) == len(names):
            break
        folders = [path.absolute().parent.parts[1:][-depth:] for path in paths]
        longer = ("_".join((*above, path.stem)) for above, path in zip(folders, paths))
        names = [name if count[name] == 1 else long for name, long in zip(names, longer)]
    taken = set(RESERVED)
    for i, name in enumerate(names):
        # The same file given twice, or a.jpg beside a.png.
        number = 2
        while names[i] in taken:
            names[i], number = f"{name}_{number}", number + 1
        taken.add(names[i])
    return names


def _breaks_off(data: bytes) -> bool:
    """Whether a JPEG or PNG file lacks its end: decoders fill the rest with grey and only warn."""
    if data[:2] == b"\xff\xd8":
        at = 2
        # Segment by segment to the scan: a thumbnail within the headers has an end marker of its own.
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if data[at + 1] != 0xFF else 1
        return b"\xff\xd9" not in data[at:]
    return data[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" not in data[-64:]


class _quiet:
    """Keeps OpenCV and FFmpeg from printing: what goes wrong is told in our own line."""

    def __enter__(self):
        import cv2

        self.level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self.ffmpeg = os.environ.get("OPENCV_FFMPEG_LOGLEVEL")
        os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"

    def __exit__(self, *_):
        import cv2

        cv2.utils.logging.setLogLevel(self.level)
        if self.ffmpeg is None:
            del os.environ["OPENCV_FFMPEG_LOGLEVEL"]
        else:
            os.environ["OPENCV_FFMPEG_LOGLEVEL"] = self.ffmpeg
