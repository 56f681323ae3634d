"""Tables of what was fastest, one file a card and a subject: shapes with the time of every way to compute them.

``python -m amt.kernels tune`` and ``python -m amt.model.tune_blocks`` measure and write them. A user's own table comes before the
one that ships. Without one, and for shapes far from all that was measured, the caller's default holds: never a kernel that
nobody measured there.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from amt.errors import UsageError
from amt.files import check_writable, write_text

SCHEMA = 1


class Table:
    """The measured shapes of a card, each with its fastest name; false where there are none.

    Args:
        rows: a shape's fields and ``ms``, milliseconds by name. A row in which nothing ran is left out.
        shape: the NamedTuple that the fields make.
        near: fields that may differ, each with the largest factor between the measured and the asked for; the others must agree.
    """

    def __init__(self, rows: list[dict[str, Any]], shape: type, near: dict[str, float]):
        self.measured = [
            (shape(*(row[name] for name in shape._fields)), min(row["ms"], key=row["ms"].get))
            for row in rows
            if row["ms"]
        ]
        self.near = {name: math.log(factor) for name, factor in near.items()}
        self.chosen: dict[tuple, str] = {}  # what lookups found

    def __len__(self) -> int:
        return len(self.measured)

    def fastest(self, shape, default: str) -> str:
        """The fastest name of the nearest measured shape; ``default`` where none is near."""
        found = self.chosen.get(shape)
        if found is None:
            found, least = default, float("inf")
            for measured, name in self.measured:
                distance = self._distance(measured, shape)
                if distance < least:
                    least, found = distance, name
            self.chosen[shape] = found
        return found

    def _distance(self, measured, shape) -> float:
        total = 0.0
        for name, one, other in zip(shape._fields, measured, shape):
            if name not in self.near:
                if one != other:
                    return float("inf")
                continue
            distance = abs(math.log(one / other)) if one and other else float("inf")
            if distance > self.near[name]:
                return float("inf")
            total += distance
        return total


def read(path: Path, subject: str, table: Callable[[list], Table], names: Collection[str], command: str) -> Table:
    """Raises ValueError, with ``command`` for the remedy, for a file that is no table of ``names``."""
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        found = table(content["rows"])
        unknown = {name for _, name in found.measured} - set(names)
        if unknown:
            raise ValueError(f"unknown back end {', '.join(sorted(unknown))}")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is no table of {subject} ({reason}); remove it, or run: {command}") from None


def check_output(path: Path) -> None:
    """Raises UsageError where no table can be written at ``path``: before minutes of measuring, not after them."""
    if path.is_dir():
        raise UsageError(f"--output: {path} is a folder; name a file, such as {path / 'card.json'}")
    check_writable(path)


def write(path: Path, card: str, rows: list[dict[str, Any]]) -> None:
    """In one rename: a reader never sees half a file."""
    content = {"schema": SCHEMA, "card": card, "torch": torch.__version__, "rows": rows}
    write_text(path, json.dumps(content, indent=1) + "\n")


def earlier_rows(path: Path | None, card: str) -> list[dict[str, Any]]:
    """What a table of the same card and PyTorch holds; a tuning that is cut off replaces only the rows that it measured."""
    try:
        content = json.loads(path.read_text()) if path is not None else {}
        same = (content["schema"], content["card"], content["torch"]) == (SCHEMA, card, torch.__version__)
        return [dict(row) for row in content["rows"]] if same else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def merged(earlier: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and the earlier ones of other shapes."""

    def shape(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != "ms"}

    new = [shape(row) for row in rows]
    return [*rows, *(row for row in earlier if shape(row) not in new)]


def file_name(card: str) -> str:
    """ "NVIDIA H200" -> "nvidia-h200.json"."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json"


def user_folder(subject: str) -> Path:
    """$XDG_CACHE_HOME/amt/<subject>, or ~/.cache/amt/<subject>."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "amt" / subject


def first_of(card: str, folders: Collection[Path]) -> Path | None:
    """The card's file in the first folder that has one."""
    paths = (folder / file_name(card) for folder in folders)
    return next((path for path in paths if path.is_file()), None)
