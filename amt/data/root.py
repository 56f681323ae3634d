"""Whether a folder holds a set, of which layout, and what stands there instead. Imports no PyTorch: programs ask this first."""

from __future__ import annotations

from pathlib import Path

from amt.data.errors import DataError
from amt.data.layout import SUBJECTS, SYNTHETIC_RECORD

HO3D_PARTS = {"train": ("train.txt", "train"), "test": ("evaluation.txt", "evaluation")}  # lists and folders
_RENDER = "render one with python -m amt.data.synthetic"


def find_layout(root: Path) -> str | None:
    """ "dexycb" for a folder with a subject's folder or a synthetic set's record, "ho3d" for one with HO-3D's lists, or None."""
    if any((root / name).is_file() for name, _ in HO3D_PARTS.values()):
        return "ho3d"
    if (root / SYNTHETIC_RECORD).is_file() or any((root / name).is_dir() for name in SUBJECTS):
        return "dexycb"
    return None


def check_root(root: Path) -> str:
    """The layout of the set in a folder.

    Raises:
        DataError: it is missing, a file, empty, not readable, or no set; a set above or below it is named.
    """
    try:
        if not root.exists():
            raise DataError(f"{root}: no such folder; give the folder of a set, or {_RENDER} {root}")
        above = next((folder for folder in root.absolute().parents if find_layout(folder)), None)
        if not root.is_dir():
            remedy = f"give {above}" if above else "give the folder of a set"
            raise DataError(f"{root}: is a file, not the folder of a set; {remedy}")
        layout = find_layout(root)
        if layout is not None:
            return layout
        if above is not None:
            raise DataError(f"{root}: is a part of the set {above}; give that folder")
        inside = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror}); check its permissions") from error
    if not inside:
        raise DataError(f"{root}: is an empty folder; give the folder of a set, or {_RENDER} {root}")
    below = next((folder for folder in inside if folder.is_dir() and find_layout(folder)), None)
    if below is not None:
        raise DataError(f"{root}: is not a set itself; give {below}, which is one")
    raise DataError(
        f"{root}: holds no set, neither DexYCB's layout ({SUBJECTS[0]}/<date_time>/meta.yml) nor HO-3D's "
        f"({' and '.join(name for name, _ in HO3D_PARTS.values())}); give the folder of a set, or {_RENDER} FOLDER"
    )
