"""The crop cache: the rows of a subset's frames, cut once and stored in files that are mapped into memory.

A cache's name holds a digest of all that it was made from: the set's files (size and time), calibration, hands, settings and
code. What changes, is cut anew. A cache appears under its name only when it is whole and on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from amt.data.cache import INFO, entries, in_words, made_by_one, open_for_use, remove
from amt.data.config import CropConfig
from amt.data.crops import add_meshes, cut_frame
from amt.data.errors import BrokenFrame, DataError
from amt.data.fingerprint import code_digest, set_digest
from amt.data.parts import count_by_reason
from amt.data.reader import Reader
from amt.files import new_folder

FORMAT = 4  # counts changes of how a cache lies in its folder
_CHUNK = 64
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CropCache:
    """The rows of one subset: ``cache[name]`` is a read-only mapped array, one row a frame that can be used.

    Frames whose hand is not labelled, or lies outside the picture, cannot be cut by protocol V's box; they are left out and
    counted, as are broken ones.

    Raises:
        DataError: the folder holds no whole cache.
    """

    def __init__(self, folder: Path):
        self.folder, self._use = Path(folder), None
        try:
            self._use = open_for_use(self.folder)
            self.info = json.loads((self.folder / INFO).read_bytes())
            used = self.info["frames"]
            self.arrays = {
                name: np.memmap(self.folder / f"{name}.bin", dtype, "r", shape=(used, *shape))
                for name, (shape, dtype) in self.info["fields"].items()
            }
            self.class_points = np.load(self.folder / "class_points.npy")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            if self._use is not None:
                self._use.close()
            raise DataError(f"{self.folder}: is no whole crop cache ({error})") from error

    def __len__(self) -> int:
        return self.info["frames"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __reduce__(self):
        return CropCache, (self.folder,)  # a worker maps the files anew; pickling the arrays would copy them

    @property
    def lost(self) -> int:
        """How many of the subset's frames could not be read; those left out for their labels do not count."""
        return self.info["of"] - len(self) - sum(self.info["left_out"].values())

    def report(self) -> str:
        """One line: how many frames are there, how many were left out and why."""
        i = self.info
        parts = [f"{i['split']} {i['subset']}: {i['frames']} frames"]
        parts += [f"{count} left out {reason}" for reason, count in i["left_out"].items()]
        if self.lost:
            parts.append(f"{self.lost} of {i['of']} ({self.lost / i['of']:.2%}) could not be read")
        return ", ".join([*parts, *([count_by_reason(i["broken"])] if i["broken"] else [])])


def build_cache(
    reader: Reader,
    config: CropConfig,
    folder: str | Path,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> CropCache:
    """The cache of a reader's subset below ``folder``, cut if it is not there, or if what it was cut from has changed.

    Args:
        progress: show a bar while cutting, and lines about what is used.
        say: prints a line; by default on stderr where ``progress`` is on.

    Raises:
        DataError: the disk cannot hold it, the folder cannot be written, or no frame is left to work on.
    """
    say = say or (_print if progress else lambda line: None)
    folder = Path(folder)
    base, contents = _names(reader, config)
    final = folder / f"{base}-{contents}"
    cache = _open(final, say)
    if cache is not None:
        say(f"crops of {reader.root} are taken from {final}")
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _make(reader, config, final, base, progress, say)
        except OSError as error:
            if error.errno in _FULL:
                raise DataError(
                    f"{folder}: the disk became full while frames were cut; name another folder (data.cache=FOLDER) or "
                    "make room (python -m amt.data.cache)"
                ) from error
            raise DataError(
                f"{folder}: cannot be written ({error.strerror}); name another folder (data.cache=FOLDER)"
            ) from error
        cache = CropCache(final)
    say(cache.report())
    return cache


def _open(folder: Path, say: Callable[[str], None]) -> CropCache | None:
    """The cache in a folder; None where there is none. One that is damaged is removed."""
    if not (folder / INFO).is_file():
        return None
    try:
        return CropCache(folder)
    except DataError as error:
        say(f"{error}: it is cut anew")
        remove(folder)
        return None


def disk_need(frames: int, config: CropConfig) -> int:
    """Bytes of a cache of so many frames: 35 GB for DexYCB's s0 at 112 px, 125 GB at 224 px."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in config.fields().values())
    return frames * row


def _names(reader: Reader, config: CropConfig) -> tuple[str, str]:
    """A cache's name in two parts: what was asked for, and a digest of what it was made from."""
    asked = {
        "format": FORMAT,
        "root": str(reader.root.resolve()),
        "record": reader.record,
        "crop": [config.size, config.box_scale, config.margin, config.num_points, config.alpha],
    }
    base = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    made_from = hashlib.sha256((set_digest(reader) + code_digest()).encode()).hexdigest()[:12]
    return f"{reader.split}-{reader.subset}-{config.size}-{base}", made_from


def _make(reader: Reader, config: CropConfig, final: Path, base: str, progress: bool, say: Callable) -> None:
    with made_by_one(final.parent, base, say):
        if (final / INFO).is_file():
            return  # another process was first
        for entry in entries(final.parent):
            if entry.name.startswith(f"{base}-"):
                gone = "it is removed" if remove(entry.folder) else "it stays as long as a program reads it"
                say(f"{entry.folder}: the set or the code has changed since it was cut; {gone}")
        need, free = disk_need(len(reader), config), shutil.disk_usage(final.parent).free
        if need > free:
            raise DataError(
                f"{final.parent}: the crops of {len(reader)} frames need {in_words(need)}, and {in_words(free)} are free; "
                "name another folder (data.cache=FOLDER), or make room (python -m amt.data.cache)"
            )
        say(f"{final}: the crops of {len(reader)} frames take {in_words(need)} here; {in_words(free)} are free")
        with new_folder(final) as folder:
            _fill(reader, config, folder, progress)


def _fill(reader: Reader, config: CropConfig, folder: Path, progress: bool) -> None:
    fields = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in config.fields().items()}
    row_size = {name: int(np.prod(shape)) * dtype.itemsize for name, (shape, dtype) in fields.items()}
    used, left_out = 0, Counter()
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.bin", "wb", buffering=0)) for name in fields}
        # All blocks are taken now: a disk that is full is an error here, and a write to a mapped file would be a SIGBUS.
        for name, file in files.items():
            os.posix_fallocate(file.fileno(), 0, len(reader) * row_size[name])
        for rows in _cut_chunks(reader, config, left_out, progress):
            for name, (shape, dtype) in fields.items():
                block = np.stack([row[name] for row in rows]).astype(dtype, copy=False).reshape(len(rows), *shape)
                _write(files[name].fileno(), block.tobytes(), used * row_size[name])
            used += len(rows)
        if not used:
            raise DataError(f"{reader.root}: {_nothing_left(reader, left_out)}")
        for name, file in files.items():
            file.truncate(used * row_size[name])
    np.save(folder / "class_points.npy", reader.objects.class_points(config.num_points))
    info = {
        "root": str(reader.root.resolve()),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "split": reader.split,
        "subset": reader.subset,
        "frames": used,
        "of": len(reader),
        "left_out": dict(left_out),
        "broken": {reason: [len(files), str(next(iter(files)))] for reason, files in reader.broken.items()},
        "fields": {name: [list(shape), dtype.name] for name, (shape, dtype) in fields.items()},
    }
    (folder / INFO).write_text(json.dumps(info, indent=1))


def _cut_chunks(reader: Reader, config: CropConfig, left_out: Counter, progress: bool) -> Iterator[list[dict]]:
    """Rows by and by; what is left out is counted in ``left_out`` and in the reader."""
    from tqdm import tqdm

    total = len(reader)
    bar = tqdm(total=total, unit="frame", desc=f"cutting {reader.split} {reader.subset}", disable=not progress)
    with bar, ThreadPoolExecutor(2) as pool:
        for start in range(0, total, _CHUNK):
            chunk = range(start, min(start + _CHUNK, total))
            rows = []
            for outcome in pool.map(lambda index: cut_frame(reader, config, index), chunk):
                if isinstance(outcome, BrokenFrame):
                    reader.note_broken(outcome)
                elif isinstance(outcome, str):
                    left_out[outcome] += 1
                else:
                    rows.append(outcome)
            if rows:
                add_meshes(reader, config, rows)
                yield rows
            bar.update(len(chunk))


def _nothing_left(reader: Reader, left_out: Counter) -> str:
    reasons = [f"{count} left out {reason}" for reason, count in left_out.items()]
    reasons += [reader.report()] if reader.broken else []
    return f"not one of {len(reader)} frames of {reader.split} {reader.subset} can be used: {', '.join(reasons)}"


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
