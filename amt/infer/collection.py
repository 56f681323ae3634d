"""A long collection of pictures in parts: each part is predicted once, by any process, and written whole.

A part is what one process would give the network as one batch, so that its lines are the same byte for byte. Its file is
named by a digest of its pictures, the checkpoint and the settings: a second run finds what is done, whoever did it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amt.data.errors import FileError
from amt.files import write_text
from amt.infer.checks import InputError
from amt.infer.inputs import Images
from amt.infer.job import Job
from amt.infer.output import OutputFolder, Records
from amt.infer.run import answers, finished_hands
from amt.infer.stores import Item, at_hand
from amt.model.checkpoint import CONFIG, WEIGHTS

PARTS = "parts"  # the folder beside predictions.jsonl
_IRRELEVANT = ("words", "out", "overwrite", "engine", "workers", "no_draw")  # to what a line says


@dataclass(frozen=True)
class Part:
    """Consecutive pictures, and the file of their lines."""

    key: str
    items: tuple[Item, ...]

    def path(self, folder: Path) -> Path:
        return folder / PARTS / f"{self.key}.json"


def divide(items: Sequence[Item], size: int, settings: str) -> list[Part]:
    """The parts of ``size`` pictures each; ``settings`` tells one way to predict from another."""
    parts = []
    for start in range(0, len(items), size):
        chosen = tuple(items[start : start + size])
        content = json.dumps([settings, size, [dataclasses.astuple(item) for item in chosen]])
        parts.append(Part(hashlib.sha256(content.encode()).hexdigest()[:24], chosen))
    return parts


def digest_of(command) -> str:
    """What a line depends on besides its picture: the checkpoint's files and the settings of a command."""
    found = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        with open(Path(command.checkpoint, name), "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    options = {k: v for k, v in sorted(vars(command.options).items()) if k not in _IRRELEVANT}
    for value in (options, command.settings, command.hand, command.mano, command.camera, command.lens, command.box):
        found.update(repr(value).encode())
    return found.hexdigest()


def predict_part(job: Job, part: Part, folder: Path) -> int:
    """Predicts the pictures of a part and writes its file by one rename; returns how many pictures could be used."""
    failed: list[list[str]] = []
    with at_hand(part.items) as paths:
        names = dict(zip(paths, (item.name for item in part.items)))

        def left_out(path: Path, error: Exception) -> None:
            reason = f"{error.reason}; {error.remedy}" if isinstance(error, FileError) else str(error)
            failed.append([names[path], reason])

        lines, used = [], 0
        for answer in answers(job, Images(paths), left_out):
            used += 1
            for record in finished_hands(job, answer)[1]:
                record["image"] = names[answer.question.picture.path]
                lines.append(json.dumps(record, allow_nan=False))
    write_text(part.path(folder), json.dumps({"used": used, "failed": failed, "lines": lines}))
    return used


def read_part(part: Part, folder: Path) -> dict[str, Any] | None:
    """A part's file: ``used``, ``failed`` and ``lines``; None where it is not there or not whole."""
    try:
        content = json.loads(part.path(folder).read_text())
        return content if {"used", "failed", "lines"} <= content.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def to_do(parts: Sequence[Part], folder: Path) -> list[Part]:
    """The parts that are not there yet, and those in which a picture could not be used: it may be there by now."""
    return [part for part in parts if (found := read_part(part, folder)) is None or found["failed"]]


def join(parts: Sequence[Part], out: OutputFolder) -> tuple[int, list[list[str]]]:
    """Writes predictions.jsonl of all parts in their order; returns how many pictures were used, and those that were not.

    Raises:
        InputError: a part is missing.
    """
    used, failed = 0, []
    with Records(out) as records:
        for part in parts:
            found = read_part(part, out.folder)
            if found is None:
                raise InputError(f"{part.path(out.folder)}: is not there; run the same command again")
            for line in found["lines"]:
                records.add_line(line)
            used, failed = used + found["used"], failed + found["failed"]
    return used, failed
