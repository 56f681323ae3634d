"""Checkpoints that come with the package, by name; their cards lie beside the weights."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {"amt-tiny": ASSETS / "amt-tiny"}


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a checkpoint: ``name`` itself, or where the package keeps the one of that name.

    A checkpoint of the user's with that name, a folder with config.json, goes first. Any other folder or file does not:
    a program's output may have the name of the weights that it was made with.
    """
    folder = Path(name).expanduser()
    return folder if (folder / "config.json").is_file() else SHIPPED.get(str(name), folder)


def is_shipped(folder: Path) -> bool:
    """Is that a folder of the package, into which nobody writes?"""
    return folder.resolve() in (own.resolve() for own in SHIPPED.values())
