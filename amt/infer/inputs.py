"""Pictures, videos and cameras: what a command line's paths, folders and patterns name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt.data.images import TOO_LARGE, read_image
from amt.infer.checks import InputError

if TYPE_CHECKING:
    from amt.infer.video import Video

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".3gp")
CAMERA = re.compile(r"camera:(\d+)")
MOST_PIXELS = 1 << 28  # of a picture; decoded, it takes three times as many bytes
RESERVED = ("overview",)  # a name that a picture of all images takes


@dataclass(frozen=True)
class Picture:
    """One image of a source."""

    name: str  # a stem for files that are written about it
    image: np.ndarray  # uint8 [H, W, 3], RGB
    path: Path  # the image's file, or the video's
    frame: int | None = None  # index in a video
    time_s: float | None = None  # since the start of the video
    notes: tuple[str, ...] = ()  # what the reader had to choose, such as the first picture of an animation


class Images:
    """Image files, read one by one.

    Args:
        paths: the files.
        rate: frames/s where the files are the frames of one video: each picture then has its frame number and time.
        every: only every ``every``-th file is taken; frame numbers and times stay those of all files.
    """

    def __init__(self, paths: Sequence[Path], rate: float | None = None, every: int = 1):
        self.paths, self.rate, self.every = list(paths)[::every], rate, every
        self.names = _distinct_names(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Picture:
        """The picture at ``index``; raises :class:`amt.data.errors.ImageError` where its file cannot be read."""
        path = self.paths[index]
        image, notes = read_image(path, _check_size)
        number = index * self.every
        time = {} if self.rate is None else {"frame": number, "time_s": number / self.rate}
        return Picture(self.names[index], image, path, notes=notes, **time)


def _check_size(size: tuple[int, int]) -> None:
    if size == TOO_LARGE:
        raise InputError(
            "the picture has more than 178 megapixels, the most that are read of its format; make it smaller"
        )
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(
            f"the picture has {size[1]} x {size[0]} px; at most {MOST_PIXELS >> 20} megapixels are read, make it smaller"
        )


def open_source(inputs: Sequence[str], rate: float | None = None, every: int = 1) -> Images | Video:
    """The images, or the one video or camera, that the paths, folders and patterns of a command line name.

    Args:
        inputs: paths, folders and patterns; or "camera:0".
        rate: frames/s where the images are the frames of one video.
        every: only every ``every``-th image or frame is taken.

    Raises:
        InputError: a path that does not exist, a folder or pattern without images, a video among other inputs or with a rate.
    """
    live = [given for given in inputs if CAMERA.fullmatch(given)]
    if live:
        if len(inputs) > 1 or rate is not None:
            raise InputError(
                f"{live[0]}: a camera is taken alone, and has its own times; leave the others and --video out"
            )
        from amt.infer.video import LiveCamera

        return LiveCamera(int(live[0].partition(":")[2]), every)
    paths: list[Path] = []
    for given in inputs:
        paths += _expand(given)
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        return Images(paths, rate, every)
    if len(paths) > 1:
        raise InputError(f"{videos[0]}: a video is taken alone; run once for each video, and once for the images")
    if rate is not None:
        raise InputError(f"--video: {videos[0]} is a video and has its own times; leave --video out")
    from amt.infer.video import Video

    return Video(videos[0], every)


def _expand(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        try:
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
        found = found or _cameras_of_sequence(path)
        if not found:
            kinds = ", ".join(s[1:] for s in IMAGE_SUFFIXES)
            raise InputError(f"{path}: the folder holds no image ({kinds}); give the folder that holds the frames")
        # A camera's folder of a data set holds depth beside colour.
        return [p for p in found if p.name.startswith("color_")] or found
    if os.path.lexists(path):
        return [path]
    if any(c in given for c in "*?["):
        found = sorted(Path(p) for p in glob(given, recursive=True) if Path(p).is_file())
        found = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES]
        if not found:
            raise InputError(f"{given}: no image matches this pattern; check it")
        return found
    raise InputError(f"{path}: no such file or folder; check the path")


def _cameras_of_sequence(path: Path) -> list[Path]:
    """Every camera's colour pictures of a sequence in DexYCB's layout; nothing where the folder is none."""
    if not (path / "meta.yml").is_file():
        return []
    return sorted(path.glob("*/color_*.jpg"))


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """File stems. Images of one stem take their paths below the folder that they share: a/x.jpg and x.png, a_x_jpg and x_png.

    The same file given twice gets a number behind its name.
    """
    count = Counter(path.stem for path in paths)
    count.update(RESERVED)
    alike = [path.absolute() for path in paths if count[path.stem] > 1]
    shared = {path.stem: os.path.commonpath([p.parent for p in alike if p.stem == path.stem]) for path in alike}
    names, taken = [], set(RESERVED)
    for path in paths:
        name = path.stem
        if count[name] > 1:
            name = "_".join(path.absolute().relative_to(shared[name]).parts).replace(".", "_")
        number, first = 2, name
        while name in taken:
            name, number = f"{first}_{number}", number + 1
        taken.add(name)
        names.append(name)
    return names
