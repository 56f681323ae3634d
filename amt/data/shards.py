"""How a crop cache lies in its folder: shards of up to 2,048 frames of the index, each made by one process and mapped by all.

Shard k is ``k.image.bin`` (and ``k.alpha.bin``), ``k.labels.bin`` with one record a frame, and ``k.json``. The last one is
written when the others are on the disk: a shard without it does not count.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from amt import files
from amt.data.config import CropConfig
from amt.data.errors import BrokenFrame
from amt.data.reader import Reader

ROWS, BYTES = 2048, 1 << 30  # at most, a shard
_CHUNK = 64  # frames that are cut before they are written
_PIXELS = ("image", "alpha")


def shard_ranges(frames: int, config: CropConfig) -> list[range]:
    """The frames of each shard."""
    rows = max(1, min(ROWS, BYTES // (3 * config.cut_size**2)))
    return [range(start, min(start + rows, frames)) for start in range(0, frames, rows)]


def layout(config: CropConfig, num_vertices: int) -> dict[str, np.dtype]:
    """The files of a shard and what one row of each is, for hands of so many vertices."""
    fields = config.fields(num_vertices)
    pixels = {name: np.dtype((np.uint8, shape)) for name, (shape, _) in fields.items() if name in _PIXELS}
    labels = [(name, dtype, shape) for name, (shape, dtype) in fields.items() if name not in _PIXELS]
    return {**pixels, "labels": np.dtype(labels)}


def row_bytes(config: CropConfig, num_vertices: int) -> int:
    return sum(dtype.itemsize for dtype in layout(config, num_vertices).values())


def finished(folder: Path, number: int, frames: range, kinds: dict[str, np.dtype]) -> dict | None:
    """What is known of a shard that is whole: its rows, what was left out and what was broken. None for any other."""
    try:
        record = json.loads((folder / f"{number:05d}.json").read_bytes())
        rows, left_out = record["rows"], sum(record["left_out"].values())
        sizes = [(folder / f"{number:05d}.{name}.bin").stat().st_size for name in kinds]
        whole = (
            record["frames"] == [frames.start, frames.stop]
            and 0 <= left_out <= len(frames) - rows
            and all(isinstance(paths, list) for paths in record["broken"].values())
            and sizes == [rows * dtype.itemsize for dtype in kinds.values()]
        )
    except Exception:  # what a damaged file holds can raise almost anything
        return None
    return record if whole else None


def write_shard(
    folder: Path,
    number: int,
    kinds: dict[str, np.dtype],
    chunks: Iterator[tuple[int, list[dict]]],
    most: int,
    told: Callable,
) -> int:
    """Writes the rows of a shard; returns how many there are. What is on the disk afterwards, stays.

    Args:
        kinds: see :func:`layout`.
        chunks: (frames that were looked at, rows that came of them).
        most: rows that are expected at most; their blocks are taken first.
        told: called with each chunk's number of frames.
    """
    used = 0
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(open(folder / f"{number:05d}.{name}.bin", "wb", buffering=0)) for name in kinds
        }
        # All blocks are taken now: a disk that is full is an error here, and a write to a mapped file would be a SIGBUS.
        for name, file in opened.items():
            os.posix_fallocate(file.fileno(), 0, most * kinds[name].itemsize)
        for looked_at, rows in chunks:
            for name, dtype in kinds.items():
                _write(opened[name].fileno(), _block(rows, name, dtype), used * dtype.itemsize)
            used += len(rows)
            told(looked_at)
        for name, file in opened.items():
            file.truncate(used * kinds[name].itemsize)
            os.fsync(file.fileno())
    return used


def finish_shard(
    folder: Path, number: int, frames: range, rows: int, left_out: Counter, broken: dict[str, list[str]]
) -> None:
    record = {"frames": [frames.start, frames.stop], "rows": rows, "left_out": dict(left_out), "broken": broken}
    files.write_text(folder / f"{number:05d}.json", json.dumps(record))


def _block(rows: list[dict], name: str, dtype: np.dtype) -> bytes:
    if dtype.names is None:
        return b"".join(np.ascontiguousarray(row[name], np.uint8).tobytes() for row in rows)
    block = np.empty(len(rows), dtype)
    for field in dtype.names:
        for k, row in enumerate(rows):
            block[field][k] = row[field]
    return block.tobytes()


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class Shards:
    """The rows of all shards of a folder, mapped into memory.

    Args:
        kinds: what one row of each file is, :func:`layout`.
        rows: how many each shard has.

    Raises:
        OSError, ValueError: a file is missing or has another size.
    """

    def __init__(self, folder: Path, kinds: dict[str, np.dtype], rows: list[int]):
        self.starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self.kinds = kinds
        self.mapped = {
            name: [_map(folder / f"{k:05d}.{name}.bin", dtype, count) for k, count in enumerate(rows)]
            for name, dtype in kinds.items()
        }
        self.names = [*(name for name in kinds if name != "labels"), *kinds["labels"].names]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, name: str) -> np.ndarray:
        """A field of all rows: mapped where there is one shard, copied otherwise."""
        if name in self.mapped:
            parts = self.mapped[name]
        else:
            parts = [part[name] for part in self.mapped["labels"]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def views(self, name: str, rows: np.ndarray) -> list[np.ndarray]:
        """Rows [B] of a file where they lie."""
        mapped = self.mapped[name]
        return [mapped[shard][row] for shard, row in self._places(rows)]

    def take(self, name: str, rows: np.ndarray, part: tuple = ()) -> np.ndarray:
        """A copy of rows [B] of a file ("labels" is an array of records), or of ``part`` of each row."""
        mapped = self.mapped[name]
        first = mapped[0][(0, *part)]
        out = np.empty((len(rows), *first.shape), first.dtype)
        for k, (shard, row) in enumerate(self._places(rows)):
            out[k] = mapped[shard][(row, *part)]
        return out

    def _places(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """(shard, row in it) of rows [B]."""
        rows = np.asarray(rows, np.int64)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        return list(zip(shards.tolist(), (rows - self.starts[shards]).tolist()))


def _map(path: Path, dtype: np.dtype, rows: int) -> np.ndarray:
    size = rows * dtype.itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {size}")
    if not rows:
        return np.empty((0, *dtype.shape), dtype.base)
    # Through PyTorch, because NumPy's maps keep a file descriptor each, and large sets have hundreds of shards.
    flat = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    array = flat.view(dtype.base).reshape(rows, *dtype.shape)
    array.setflags(write=False)
    return array


def chunks_of(frames: range) -> Iterator[range]:
    for start in range(frames.start, frames.stop, _CHUNK):
        yield range(start, min(start + _CHUNK, frames.stop))


def broken_since(before: dict[str, set], broken: dict[str, dict[Path, None]]) -> dict[str, list[str]]:
    """The files of a reader's ``broken`` that :func:`broken_now` did not hold."""
    found = {reason: [str(p) for p in paths if p not in before.get(reason, ())] for reason, paths in broken.items()}
    return {reason: paths for reason, paths in found.items() if paths}


def broken_now(broken: dict[str, dict[Path, None]]) -> dict[str, set]:
    return {reason: set(paths) for reason, paths in broken.items()}


def note_broken(reader: Reader, broken: dict[str, list[str]]) -> None:
    """Counts a shard's broken files in a reader that did not meet them itself."""
    for reason, paths in broken.items():
        for path in paths:
            if Path(path) not in reader.broken.get(reason, {}):
                reader.note_broken(BrokenFrame(path, reason))
