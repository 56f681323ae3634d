"""Pictures of a collection: files of this machine, or objects that fsspec reaches (s3://, gs://, memory://, ...)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from amt.infer.checks import InputError
from amt.infer.inputs import CAMERA, IMAGE_SUFFIXES, VIDEO_SUFFIXES, open_source

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One picture: where it is, and what changes when its content does."""

    name: str  # a path, or an address
    stamp: str


def list_items(inputs: Sequence[str], every: int = 1) -> list[Item]:
    """The pictures that paths, folders, patterns and addresses name, in their order; every ``every``-th of them.

    Raises:
        InputError: nothing is there, it cannot be listed, or it is a video.
    """
    items: list[Item] = []
    for given in inputs:
        if URL.match(given):
            items += _stored(given)
            continue
        if CAMERA.fullmatch(given) or Path(given).suffix.lower() in VIDEO_SUFFIXES:
            raise InputError(f"{given}: a video is followed from frame to frame; leave --engine ray out for it")
        source = open_source([given])
        items += [Item(str(path), _stamp(path)) for path in source.paths]
    return items[::every]


@contextmanager
def at_hand(items: Sequence[Item]) -> Iterator[list[Path]]:
    """The items as files of this machine, within a block: objects are copied into a temporary folder.

    An object that cannot be had is a path without a file, which whoever reads it tells.
    """
    with TemporaryDirectory(prefix="amt-infer-") as folder:
        paths = []
        for i, item in enumerate(items):
            if not URL.match(item.name):
                paths.append(Path(item.name))
                continue
            paths.append(Path(folder, str(i), PurePosixPath(item.name).name))
            paths[-1].parent.mkdir()
            _copy(item.name, paths[-1])
        yield paths


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""  # who reads it says what is wrong
    return f"{status.st_size} {status.st_mtime_ns}"


def _stored(address: str) -> list[Item]:
    kinds = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    try:
        store, path = _store(address)
        if any(c in path for c in "*?["):
            found = store.glob(path, detail=True)
        else:
            found = store.find(path, detail=True)
    except InputError:
        raise
    except Exception as error:  # each store has errors of its own
        raise InputError(f"{address}: cannot be listed ({_said(error)}); check address, network and rights") from error
    files = [(name, about) for name, about in sorted(found.items()) if about.get("type") != "directory"]
    files = [(name, about) for name, about in files if PurePosixPath(name).suffix.lower() in kinds]
    if not files:
        raise InputError(f"{address}: holds no image ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}); check the address")
    video = next((name for name, _ in files if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES), None)
    if video is not None:
        raise InputError(
            f"{store.unstrip_protocol(video)}: a video is followed from frame to frame; copy it and run on the copy"
        )
    changes = ("size", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    return [
        Item(store.unstrip_protocol(n), " ".join(str(about[c]) for c in changes if c in about)) for n, about in files
    ]


def _store(address: str):
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise InputError(f"{address}: the package fsspec is not installed; pip install amt[ray]") from error
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:  # s3fs, gcsfs, ... are packages of their own
        raise InputError(f"{address}: {_said(error)}") from error


def _copy(address: str, path: Path) -> None:
    store, name = _store(address)
    try:
        store.get_file(name, str(path))
    except Exception:  # each store has errors of its own; the missing file is what is told
        path.unlink(missing_ok=True)


def _said(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
