"""Checkpoints that come with the package, by name; their cards lie beside the weights."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from amt.errors import UsageError

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {"amt-tiny": ASSETS / "amt-tiny"}


def checkpoint_folder(name: str | Path, argument: str = "checkpoint") -> Path:
    """The folder of a checkpoint: ``name`` itself, or where the package keeps the one of that name.

    A checkpoint of the user's with that name, a folder with config.json, goes first. Any other folder or file does not:
    a program's output may have the name of the weights that it was made with.

    Raises UsageError, which names ``argument``, for what is neither text nor a path, or empty.
    """
    check_name(name, argument)
    folder = Path(name).expanduser()
    return folder if (folder / "config.json").is_file() else SHIPPED.get(str(name), folder)


def check_name(name: Any, argument: str) -> None:
    """Raises UsageError unless ``name`` can be the path or the name of a checkpoint."""
    if not isinstance(name, (str, os.PathLike)) or isinstance(os.fspath(name), bytes) or not os.fspath(name):
        names = ", ".join(SHIPPED)
        raise UsageError(
            f"{argument}: expected a folder, {names}, or owner/model of the Hugging Face Hub; got {name!r}"
        )


def hint(folder: Path) -> str:
    """What follows the line that there is no such folder: the name of the package's weights, where it is near; else ""."""
    near = get_close_matches(folder.name.lower().replace("_", "-"), SHIPPED, 1, cutoff=0.7)
    if not near:
        return ""
    return f"; the package's own weights are called {near[0]}" + (
        ", without path or slash" if near[0] == folder.name else ""
    )


def is_shipped(folder: Path) -> bool:
    """Is that a folder of the package, into which nobody writes?"""
    return folder.resolve() in (own.resolve() for own in SHIPPED.values())
