"""Checkpoints that come with the package, by name; their cards lie beside the weights."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {"amt-tiny": ASSETS / "amt-tiny"}


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a checkpoint: ``name`` itself, or where the package keeps the one of that name.

    A folder of the user's with that name goes first.
    """
    folder = Path(name).expanduser()
    return folder if folder.exists() else SHIPPED.get(str(name), folder)


def is_shipped(folder: Path) -> bool:
    """Is that a folder of the package, into which nobody writes?"""
    return folder in SHIPPED.values()
