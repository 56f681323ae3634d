"""Pictures and videos on disk, and a disk that is full."""

from __future__ import annotations

import resource
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def write_image(path: Path, image: np.ndarray) -> Path:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_video(path: Path, images, rate: float = 12.0) -> Path:
    import cv2

    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


def set_frame_times(path: Path, durations) -> None:
    """Gives the frames of an mp4 that OpenCV wrote durations of their own (ms): a video of variable frame rate."""
    data = bytearray(path.read_bytes())

    def box(name: bytes, start: int, end: int) -> tuple[int, int]:
        """Start and end of the content of the box ``name`` between two offsets."""
        while start < end:
            size = struct.unpack_from(">I", data, start)[0]
            if data[start + 4 : start + 8] == name:
                return start + 8, start + size
            start += size
        raise AssertionError(f"no box {name}")

    moov = box(b"moov", 0, len(data))
    assert moov[1] == len(data)  # behind the frames, whose places in the file do not move
    trak = box(b"trak", *moov)
    mdia = box(b"mdia", *trak)
    minf = box(b"minf", *mdia)
    stbl = box(b"stbl", *minf)
    stts = box(b"stts", *stbl)
    struct.pack_into(">I", data, box(b"mvhd", *moov)[0] + 12, 1000)  # ticks/s
    struct.pack_into(">I", data, box(b"mdhd", *mdia)[0] + 12, 1000)
    table = struct.pack(">II", 0, len(durations)) + b"".join(struct.pack(">II", 1, int(d)) for d in durations)
    grown = len(table) - (stts[1] - stts[0])
    data[stts[0] : stts[1]] = table
    for start, _ in (moov, trak, mdia, minf, stbl, stts):
        size = struct.unpack_from(">I", data, start - 8)[0]
        struct.pack_into(">I", data, start - 8, size + grown)
    for name, parent, at in ((b"mvhd", moov, 16), (b"tkhd", trak, 20), (b"mdhd", mdia, 16)):
        start = box(name, parent[0], parent[1] + grown)[0]
        struct.pack_into(">I", data, start + at, int(sum(durations)))
    if b"edts" in data[trak[0] : trak[1]]:
        at = bytes(data).index(b"elst", trak[0]) + 4 + 8
        struct.pack_into(">I", data, at, int(sum(durations)))
    path.write_bytes(data)


@contextmanager
def small_disk(size: int):
    """No file can grow beyond ``size`` bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
