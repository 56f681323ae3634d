"""Tells whether a cut made earlier still shows what a set says now: digests of the set's files and of the cutting code."""

from __future__ import annotations

import ast
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import amt
from amt.data.reader import Reader

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_CODE = (  # below amt/: what stands between a set's files and a cached row
    "data/crops.py",
    "data/dexycb.py",
    "data/distortion.py",
    "data/ho3d.py",
    "data/parts.py",
    "data/sequences.py",
    "data/set_folder.py",
    "data/files.py",
    "data/images.py",
    "data/jpeg.py",
    "data/layout.py",
    "data/meshes.py",
    "data/object_card.py",
    "data/objects.py",
    "data/visibility.py",
    "hand/array_pickle.py",
    "hand/camera.py",
    "hand/contact.py",
    "hand/mano.py",
    "hand/objects.py",
    "hand/rotations.py",
    "hand/skeleton.py",
)


def set_digest(reader: Reader) -> str:
    """Of everything that a reader's subset is made of: size and time of each file, and the hands' arrays.

    Of a set in DexYCB's layout, calibration, models, meta.yml, contacts, and the pictures and labels of the subset count. One
    ``stat`` a file is needed, about 5 s for the 800,000 files of s0 on a local disk; threads help where the disk is remote.
    """
    digest = hashlib.sha256()
    for side in reader.sides:
        digest.update(reader.hand_model(side).digest.encode())
    for name in reader.shared_folders:
        for path in sorted((reader.root / name).rglob("*")):
            digest.update(_stamp(path.relative_to(reader.root), path))
    for path in reader.shared_files():
        digest.update(_stamp(path.parent.name, path))
    with ThreadPoolExecutor(8) as pool:
        for stamps in pool.map(lambda folder: _folder_stamps(folder, reader.frame_files), reader.frame_folders()):
            digest.update(stamps)
    return digest.hexdigest()


@cache
def code_digest() -> str:
    """Of the code that reads and cuts; comments, docstrings and layout do not count. And of OpenCV's version."""
    import cv2

    digest = hashlib.sha256(cv2.__version__.encode())
    for name in _CODE:
        tree = ast.parse((Path(amt.__file__).parent / name).read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _stamp(name: Path | str, path: Path) -> bytes:
    try:
        found = os.stat(path)
    except OSError:
        return f"{name} missing\n".encode()
    return b"" if os.path.isdir(path) else f"{name} {path.name} {found.st_size} {found.st_mtime_ns}\n".encode()


def _folder_stamps(folder: Path, prefixes: tuple[str, ...]) -> bytes:
    lines = []
    try:
        with os.scandir(folder) as entries:
            lines = [_entry_stamp(entry) for entry in entries if entry.name.startswith(prefixes)]
    except OSError as error:
        lines = [f"{type(error).__name__}\n"]
    return "".join([f"{folder.parent.name}/{folder.name}\n", *sorted(lines)]).encode("utf-8", "surrogateescape")


def _entry_stamp(entry: os.DirEntry) -> str:
    try:
        found = entry.stat()
    except OSError as error:  # a link that leads nowhere
        return f"{entry.name} {type(error).__name__}\n"
    return f"{entry.name} {found.st_size} {found.st_mtime_ns}\n"
