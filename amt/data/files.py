"""Reads the small files of a set; each fault is one line that names the file. Nothing that a file holds is executed."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from amt.data.errors import BrokenFrame, FileError

MOST_BYTES = 64 << 20  # of a picture, or of an array in an .npz: far more than a set's files have
MOST_TEXT = 1 << 18  # bytes of a .yml
MOST_DEPTH, MOST_ALIASES = 16, 16  # of collections inside collections, and of references, in a .yml
# NumPy reads an array's header by ast.literal_eval. Python 3.11 raises SystemError where two threads are in one at a time.
_one_header = threading.Lock()
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}


def read_file(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file. Anything else is refused at once: to open a fifo would wait for its writer.

    Args:
        most: bytes; a larger file is refused.

    Raises:
        OSError: ``strerror`` says why in a few words.
    """
    with _opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        size = os.fstat(descriptor).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", str(path))
        return file.read(size or most)  # read(most) alone would take memory for so many bytes first


def read_ends(path: str | os.PathLike, head: int = 4096, tail: int = 64) -> tuple[bytes, bytes]:
    """The first and the last bytes of a regular file, as :func:`read_file` reads it. Raises OSError."""
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, head, 0), os.pread(descriptor, tail, max(size - tail, 0))


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file (UTF-8, or UTF-16 with its mark). Raises FileError."""
    try:
        data = read_file(path, MOST_TEXT)
    except OSError as error:
        raise FileError(path, str(error.strerror), "put the set's file back") from error
    return parse_yaml(path, data)


def parse_yaml(path: Path, data: bytes) -> dict:
    """The mapping in the YAML text ``data``; ``path`` names it in a FileError."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(path, yaml.parse(data, loader))
        content = yaml.load(data, loader)
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise FileError(path, "is not UTF-8 text", "save it as UTF-8") from error
    except FileError:
        raise
    except Exception as error:  # what a damaged file holds can raise almost anything
        mark = getattr(error, "problem_mark", None)
        remedy = "copy it anew" if mark is None else f"mend line {mark.line + 1}, or copy it anew"
        raise FileError(path, f"is not YAML ({type(error).__name__})", remedy) from error
    if not isinstance(content, dict):
        raise FileError(path, "is empty or no mapping")
    return content


def _check_events(path: Path, events) -> None:
    """Raises FileError for YAML that is dangerous to load: libyaml's loader recurses until the stack is full."""
    import yaml

    depth = aliases = 0
    for event in events:
        aliases += isinstance(event, yaml.AliasEvent)
        if aliases > MOST_ALIASES:  # ten times ten aliases can stand for ten billion values
            raise FileError(path, f"holds more than {MOST_ALIASES} YAML aliases")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise FileError(path, f"nests more than {MOST_DEPTH} collections")


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name, their checksums compared. Raises BrokenFrame; arrays of objects are refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_file(path))) as archive:
            return {name: _member(archive, name) for name in names}
    except FileNotFoundError as error:
        raise BrokenFrame(path, "is missing") from error
    except OSError as error:
        raise BrokenFrame(path, str(error.strerror)) from error
    except KeyError as error:
        raise BrokenFrame(path, f"lacks a field of {', '.join(names)}") from error
    except Exception as error:  # what a damaged file holds can raise almost anything
        raise BrokenFrame(path, "is cut short or no .npz file") from error


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > MOST_BYTES:
        raise ValueError(f"{name} takes {entry.file_size} bytes")
    # The whole member: its checksum is only compared at its end.
    member = io.BytesIO(archive.read(entry))
    with _one_header:
        return np.lib.format.read_array(member, allow_pickle=False)


def npz_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of an .npz file; the array itself is not unpacked. Raises BrokenFrame."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_file(path))) as archive, archive.open(f"{name}.npy") as member:
            major = np.lib.format.read_magic(member)[0]
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            with _one_header:
                shape, _, dtype = read(member)
            return shape, dtype
    except KeyError as error:
        raise BrokenFrame(path, f"lacks a field of {name}") from error
    except Exception as error:  # what a damaged file holds can raise almost anything
        raise BrokenFrame(path, "is cut short or no .npz file") from error


def fit_float32(values: np.ndarray) -> bool:
    """Whether all values are finite numbers, also as float32, which labels and calibration become."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(values, np.float64).astype(np.float32)).all())


def numbers(path: Path, found: object, count: int, what: str) -> np.ndarray:
    """float64 [count] of a YAML list; float32 can hold each of them."""
    try:
        numbers = np.array(found, np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not fit_float32(numbers):
        raise FileError(path, f"lacks {what}", "put the set's calibration back")
    return numbers
