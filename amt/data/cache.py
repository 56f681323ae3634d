"""The folder of crop caches: what lies in it, who reads it, and how it is limited.

    python -m amt.data.cache list                 # each cache: size, last use, the set that it was cut from
    python -m amt.data.cache clear [NAME ...]     # removes the named caches, or all of them
    python -m amt.data.cache limit 50GB           # removes those used longest ago until the rest fits

A cache that a running program reads is never removed. ``--cache FOLDER`` names another folder than the default one
(``data.cache``, $XDG_CACHE_HOME/amt or ~/.cache/amt).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amt import files
from amt.data.config import default_cache_folder
from amt.data.errors import DataError
from amt.startup import Parser, run_program, tell

CROPS = "crops"  # below the cache folder
INFO = "info.json"  # a cache's description; also what its readers lock
PART = ".part-"  # <prefix><name>: a cache whose cut was stopped, or goes on now
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Entry:
    """One cache of a crops folder."""

    folder: Path
    info: dict
    size: int  # bytes
    used: float  # s since the epoch

    @property
    def name(self) -> str:
        return self.folder.name.removeprefix(PART)

    def line(self) -> str:
        """What ``list`` prints."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        if self.folder.name.startswith(PART):
            return (
                f"{self.name}  {in_words(self.size)}  not whole, last cut {when}; a run that needs it goes on with it"
            )
        return f"{self.name}  {in_words(self.size)}  used {when}  {self.info.get('frames')} frames of {self.info.get('root')}"


def entries(crops: Path, unfinished: bool = False) -> list[Entry]:
    """The whole caches of a crops folder, the one used longest ago first; on demand those that are not whole, too."""
    found = []
    for folder in crops.iterdir() if crops.is_dir() else ():
        stamp, part = folder / INFO, folder.name.startswith(PART)
        if part and unfinished and folder.is_dir():
            stamp = folder
        elif folder.name.startswith(".") or not stamp.is_file():
            continue
        try:
            info = {} if part else json.loads(stamp.read_bytes())
        except (OSError, ValueError):
            info = {}
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        found.append(Entry(folder, info if isinstance(info, dict) else {}, size, stamp.stat().st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.name))


def remove(folder: Path) -> bool:
    """Removes a cache unless a program reads or cuts it; whether it is gone."""
    part = folder.name.startswith(PART)
    try:
        with open(_lock_of(folder) if part else folder / INFO, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Out of sight first: a removal that is cut short leaves no half cache under its name.
            doomed = folder.with_name(f"{files.REPLACED}{folder.name.removeprefix(PART)}-{os.getpid()}")
            os.replace(folder, doomed)
            files.remove(doomed)
            return not doomed.exists()
    except FileNotFoundError:
        files.remove(folder)
        return not folder.exists()
    except OSError:  # locked by a reader, or by the process that cuts it
        return False


def _lock_of(part: Path) -> Path:
    return part.with_name(f".lock-{part.name.removeprefix(PART).rsplit('-', 1)[0]}")


def open_for_use(folder: Path):
    """The open file that keeps a cache from being removed as long as it stays open; notes the time of use."""
    file = open(folder / INFO, "rb")  # noqa: SIM115 (it stays open)
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(folder / INFO)
    except OSError:
        pass  # a file system without locks, or a cache that may only be read
    return file


@contextmanager
def made_by_one(crops: Path, base: str, say: Callable[[str], None], keep: str = "") -> Iterator[None]:
    """While this context is open, no other process makes a cache of that name; what dead processes left is removed.

    Args:
        base: the part of the cache's name that stays when the set's files change.
        say: prints a line.
        keep: the unfinished folder that is wanted.
    """
    with open(crops / f".lock-{base}", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{crops / base}: another process is cutting it; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: two processes may cut the same frames, and the last one's are taken
        else:
            for left in (*_unfinished(crops, base), *crops.glob(f"{PART}{base}-*")):
                if left.name != keep:
                    files.remove(left)  # the process that made it no longer holds the lock
        sweep(crops)
        yield


def sweep(crops: Path) -> int:
    """Removes what processes that are no longer alive left and nobody can use; the number of folders."""
    dead = [path for path in _unfinished(crops) if not _in_the_making(crops, path.name)]
    for path in dead:
        files.remove(path)
    return len(dead)


def _unfinished(crops: Path, base: str = "") -> list[Path]:
    """Folders of caches that are being made or removed, or were; also those that earlier versions left."""
    patterns = [f"{prefix}{base}*" for prefix in (files.TEMPORARY, files.REPLACED)]
    return [path for pattern in (*patterns, f".partial-*-{base}*") for path in crops.glob(pattern)]


def _in_the_making(crops: Path, name: str) -> bool:
    """Whether the process that made an unfinished folder is alive: it holds the lock, or bears the number in the name."""
    found = re.fullmatch(r"\.partial-(\d+)-.+", name)
    if found:
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True
    base = name.removeprefix(files.TEMPORARY).removeprefix(files.REPLACED).rsplit("-", 2)[0]
    try:
        with open(crops / f".lock-{base}", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except OSError:
        return True  # locked; or it cannot be told


def limit(crops: Path, most: int) -> tuple[list[Entry], list[Entry]]:
    """Removes caches, those used longest ago first, until all take at most ``most`` bytes: (removed, left)."""
    left, removed = entries(crops, unfinished=True), []
    for entry in list(left):
        if sum(other.size for other in left) <= most:
            break
        if remove(entry.folder):
            left.remove(entry)
            removed.append(entry)
    return removed, left


def in_words(size: int) -> str:
    """Bytes in words: 125 GB, 1.52 MB."""
    unit = next((unit for unit in ("TB", "GB", "MB") if size >= _UNITS[unit]), "KB")
    return f"{size / _UNITS[unit]:.3g} {unit}"


def to_bytes(text: str) -> int:
    """Bytes of 50GB, 1.5 TB or a plain number. Raises DataError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    unit = None if found is None else found[2] if found[2] in _UNITS else f"{found[2]}B"
    if unit == "B":
        unit = ""
    if found is None or unit not in _UNITS:
        raise DataError(f"limit: expected a size such as 50GB, got {text!r}")
    return int(float(found[1]) * _UNITS[unit])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 0, or 2 after one line that names what was wrong."""
    return run_program("amt.data.cache", lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    parser = Parser(
        prog="python -m amt.data.cache", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", default="list", choices=("list", "clear", "limit"))
    parser.add_argument("names", nargs="*", metavar="NAME|SIZE")
    parser.add_argument("--cache", metavar="FOLDER", default=None)
    a = parser.parse_args(arguments)
    crops = (Path(a.cache).expanduser() if a.cache else default_cache_folder()) / CROPS
    return _run(a.command, a.names, crops)


def _run(command: str, names: list[str], crops: Path) -> int:
    swept = sweep(crops)
    if swept:
        print(f"removed {swept} unfinished cache(s) of processes that are gone")
    found = entries(crops, unfinished=True)
    status = 0
    if command == "limit":
        if len(names) != 1:
            raise DataError("limit: expected one size, such as 50GB")
        removed, left = limit(crops, to_bytes(names[0]))
        for entry in removed:
            print(f"removed {entry.line()}")
        if sum(entry.size for entry in left) > to_bytes(names[0]):
            status = tell("amt.data.cache", f"what is left is in use: {', '.join(e.name for e in left)}")
    elif command == "clear":
        unknown = sorted(set(names) - {entry.name for entry in found})
        if unknown:
            raise DataError(f"{crops}: holds no cache {', '.join(unknown)}; python -m amt.data.cache list names them")
        for entry in found:
            if names and entry.name not in names:
                continue
            if remove(entry.folder):
                print(f"removed {entry.line()}")
            else:
                status = tell("amt.data.cache", f"{entry.folder}: is in use and stays")
    elif names:
        raise DataError(f"list: takes no names, got {' '.join(names)}")
    left = entries(crops, unfinished=True)
    if command == "list":
        for entry in left:
            print(entry.line())
    print(f"{crops}: {len(left)} cache(s), {in_words(sum(entry.size for entry in left))}")
    return status


if __name__ == "__main__":
    sys.exit(main())
