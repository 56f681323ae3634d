"""Files and folders that appear whole or not at all, whatever moment a process or a machine stops at."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryFile

from amt.errors import UsageError

log = logging.getLogger(__name__)
TEMPORARY, REPLACED = ".tmp-", ".old-"  # <prefix><name>-<random>, beside what they become or were


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file by one rename; its folder is made where it does not exist. An OSError names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path, TEMPORARY)
    try:
        part.write_bytes(data)
        sync(part)
        os.replace(part, path)
    except OSError as error:
        error.filename = str(path)  # a full disk is met where no name is known
        raise
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to write files into; at the end of the block it takes the place of ``final`` by a rename.

    A ``final`` that exists is moved aside before, and removed after. Where the block raises, ``final`` stays as it was.
    """
    final = final.resolve()
    part = _beside(final, TEMPORARY)
    part.mkdir(parents=True)
    try:
        yield part
        for path in (*part.iterdir(), part):
            sync(path)
        old = _beside(final, REPLACED)
        if final.exists():
            os.replace(final, old)
        os.replace(part, final)
        sync(final.parent)
        remove(old)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def recover(final: Path) -> None:
    """Clears up after a process that was killed inside :func:`new_folder`. No other process may be writing ``final``."""
    final = final.resolve()
    for old in final.parent.glob(f"{REPLACED}{escape(final.name)}-*"):
        if not final.exists():  # killed between the two renames
            os.replace(old, final)
        remove(old)
    for part in final.parent.glob(f"{TEMPORARY}{escape(final.name)}-*"):
        remove(part)


def discard(folder: Path) -> None:
    """Removes a folder that others may read: it is there whole or gone, also where the process is killed meanwhile.

    Where that fails, a warning says so. :func:`recover` clears up what a killed process left.
    """
    part = _beside(folder, TEMPORARY)
    try:
        os.replace(folder, part)
    except OSError as error:
        log.warning("%s cannot be removed: %s", folder, error)
        return
    remove(part)


def remove(folder: Path) -> None:
    """Removes a folder if it is there; where that fails, a warning says so, and nothing else depends on it."""
    if folder.exists():
        shutil.rmtree(folder, onerror=lambda _, path, error: log.warning("%s cannot be removed: %s", path, error[1]))


def check_writable(path: Path) -> None:
    """Raises UsageError where no file or folder can be written at ``path``: before hours of work, not after them."""
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    try:
        if folder == path.absolute() and not folder.is_dir():
            os.close(os.open(folder, os.O_WRONLY))
        else:
            with TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}); choose another place, check permissions and free space"
        ) from error


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(f"{prefix}{path.name}-{uuid.uuid4().hex[:8]}")


def sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
