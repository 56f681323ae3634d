"""The crop cache: the rows of a subset's frames, cut once and stored in files that are mapped into memory.

A cache's name holds a digest of all that it was made from: the set's files (size and time), calibration, hands, settings and
code. What changes, is cut anew. A cache appears under its name only when it is whole and on the disk. A cut that was stopped
goes on from its last whole shard when the same cache is wanted again.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np

from amt import files
from amt.data import shards
from amt.data.cache import INFO, PART, entries, in_words, made_by_one, open_for_use, remove
from amt.data.config import CropConfig
from amt.data.cutting import cut_shards
from amt.data.errors import DataError
from amt.data.fingerprint import code_digest, set_digest
from amt.data.parts import count_by_reason
from amt.data.reader import Reader

FORMAT = 7  # counts changes of how a cache lies in its folder
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CropCache:
    """The rows of one subset, one a frame that can be used.

    ``cache[name]`` is a read-only array of all rows; :meth:`take` copies some. Frames whose hand is not labelled, or lies outside
    the picture, cannot be cut by protocol V's box; they are left out and counted, as are broken ones.

    Raises:
        DataError: the folder holds no whole cache.
    """

    def __init__(self, folder: Path):
        self.folder, self._use = Path(folder), None
        try:
            self._use = open_for_use(self.folder)
            self.info = json.loads((self.folder / INFO).read_bytes())
            kinds = {name: _dtype(description) for name, description in self.info["files"].items()}
            self.shards = shards.Shards(self.folder, kinds, self.info["shards"])
            self.class_points = np.load(self.folder / "class_points.npy")
            self.class_looks = np.load(self.folder / "class_looks.npy")
        except Exception as error:  # what a damaged file holds can raise almost anything
            if self._use is not None:
                self._use.close()
            raise DataError(f"{self.folder}: is no whole crop cache ({error})") from error

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.shards[name]

    @property
    def names(self) -> list[str]:
        """The fields of a row."""
        return self.shards.names

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the labels of rows [B], an array of records."""
        return self.shards.take("labels", rows)

    def pixels(self, rows: np.ndarray, size: int | None = None, name: str = "image") -> np.ndarray:
        """A copy of the cuts of rows [B], uint8 [B, C, C, ...], or of their middle ``size`` px."""
        cut = self.shards.kinds[name].shape[0]
        rim = 0 if size is None else (cut - size) // 2
        middle = slice(rim, cut - rim)
        return self.shards.take(name, rows, (middle, middle))

    def mapped(self, rows: np.ndarray, name: str = "image") -> list[np.ndarray]:
        """The cuts of rows [B] where they lie in the mapped files, uint8 [C, C, ...] each, read-only."""
        return self.shards.views(name, rows)

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
    say = say or (say_on_stderr if progress else lambda line: None)
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


def disk_need(frames: int, config: CropConfig, num_vertices: int) -> int:
    """Bytes of a cache of so many frames: 35 GB for DexYCB's s0 at 112 px, 125 GB at 224 px."""
    return frames * shards.row_bytes(config, num_vertices)


def _names(reader: Reader, config: CropConfig) -> tuple[str, str]:
    """A cache's name in two parts: what was asked for, and a digest of what it was made from."""
    asked = {
        "format": FORMAT,
        "root": str(reader.root.resolve()),
        "record": reader.record,
        "crop": [config.size, config.box_scale, config.margin, config.num_points, config.alpha],
        **({} if reader.limit is None else {"limit": reader.limit}),
    }
    base = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    made_from = hashlib.sha256((set_digest(reader) + code_digest()).encode()).hexdigest()[:12]
    return f"{reader.split}-{reader.subset}-{config.size}-{base}", made_from


def _make(reader: Reader, config: CropConfig, final: Path, base: str, progress: bool, say: Callable) -> None:
    part = final.with_name(f"{PART}{final.name}")
    with made_by_one(final.parent, base, say, keep=part.name):
        if (final / INFO).is_file():
            return  # another process was first
        for entry in entries(final.parent):
            if entry.name.startswith(f"{base}-"):
                gone = "it is removed" if remove(entry.folder) else "it stays as long as a program reads it"
                say(f"{entry.folder}: the set or the code has changed since it was cut; {gone}")
        part.mkdir(exist_ok=True)
        try:
            _fill(reader, config, part, final, progress, say)
        except BaseException:
            if not any(part.glob("*.json")):  # nothing that could be used again
                files.remove(part)
            raise
        files.sync(part)
        os.replace(part, final)
        files.sync(final.parent)


def _fill(reader: Reader, config: CropConfig, part: Path, final: Path, progress: bool, say: Callable) -> None:
    """Makes the shards that are missing, and the cache's description."""
    from tqdm import tqdm

    ranges, kinds = shards.shard_ranges(len(reader), config), shards.layout(config, reader.num_vertices)
    missing = {k: frames for k, frames in enumerate(ranges) if shards.finished(part, k, frames, kinds) is None}
    to_cut = sum(len(frames) for frames in missing.values())
    need, free = disk_need(to_cut, config, reader.num_vertices), shutil.disk_usage(part).free
    if need > free:
        raise DataError(
            f"{final.parent}: the crops of {to_cut} frames need {in_words(need)}, and {in_words(free)} are free; "
            "name another folder (data.cache=FOLDER), or make room (python -m amt.data.cache)"
        )
    if len(missing) < len(ranges):
        say(f"{final}: {len(ranges) - len(missing)} of {len(ranges)} shards were cut before; the cut goes on")
    say(f"{final}: the crops of {to_cut} frames take {in_words(need)} here; {in_words(free)} are free")
    description = f"cutting {reader.split} {reader.subset}"
    with tqdm(
        total=len(reader), initial=len(reader) - to_cut, unit="frame", desc=description, disable=not progress
    ) as bar:
        cut_shards(reader, config, part, missing, bar.update)
    records = [shards.finished(part, k, frames, kinds) for k, frames in enumerate(ranges)]
    left_out = Counter()
    for record in records:
        left_out.update(record["left_out"])
        shards.note_broken(reader, record["broken"])
    used = sum(record["rows"] for record in records)
    if not used:
        files.remove(part)
        raise DataError(f"{reader.root}: {_nothing_left(reader, left_out)}")
    for name, table in (("points", reader.objects.class_points), ("looks", reader.objects.class_looks)):
        np.save(part / f"class_{name}.npy", table(config.num_points))
        files.sync(part / f"class_{name}.npy")
    info = {
        "root": str(reader.root.resolve()),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "split": reader.split,
        "subset": reader.subset,
        "frames": used,
        "of": len(reader),
        "left_out": dict(left_out),
        "broken": {reason: [len(paths), str(next(iter(paths)))] for reason, paths in reader.broken.items()},
        "files": {name: _description(dtype) for name, dtype in kinds.items()},
        "shards": [record["rows"] for record in records],
    }
    files.write_text(part / INFO, json.dumps(info, indent=1))


def _description(dtype: np.dtype) -> list:
    """A file's row as JSON: a shape of bytes, or [name, dtype, shape] of every field."""
    if dtype.names is None:
        return list(dtype.shape)
    return [[name, dtype[name].base.str, list(dtype[name].shape)] for name in dtype.names]


def _dtype(description: list) -> np.dtype:
    if isinstance(description[0], int):
        return np.dtype((np.uint8, tuple(description)))
    return np.dtype([(name, base, tuple(shape)) for name, base, shape in description])


def _nothing_left(reader: Reader, left_out: Counter) -> str:
    reasons = [f"{count} left out {reason}" for reason, count in left_out.items()]
    reasons += [reader.report()] if reader.broken else []
    return f"not one of {len(reader)} frames of {reader.split} {reader.subset} can be used: {', '.join(reasons)}"


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
