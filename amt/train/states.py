"""Resumable states: folders ``step-N``, each whole or absent, the newest readable one continued from.

A state is written into ``.tmp-step-N-…``, brought to the disk (its files and its folder), and named by one rename.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from amt.errors import UserError
from amt.files import discard, new_folder, recover
from amt.train import ranks

log = logging.getLogger(__name__)
STATE, SCORE, LOCK = "state.pt", "score.json", ".lock"


class StateError(UserError, RuntimeError):
    """No state can be continued from; the message names the folder and the remedy."""


class Score(NamedTuple):
    """How good a state is: the less, the better. Scores of one name are compared."""

    name: str
    value: float


@contextmanager
def only_run_in(output: Path) -> Iterator[None]:
    """Keeps other processes from training in the same folder, until this one leaves the block or ends.

    Raises:
        StateError: another process trains there, or the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / LOCK).open("w")
    except OSError as error:
        raise StateError(
            f"train.output={output} cannot be written ({error.strerror}); choose another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{output}: another process trains in it; choose another train.output, or wait") from None
        yield


def save_state(folder: Path, step: int, state: dict[str, Any], keep: int, score: Score | None = None) -> Path:
    """Writes ``state`` (tensors and plain values) as ``folder/step-N``.

    Removes all but the newest ``keep`` states and the one with the best score. Raises StateError where it cannot be written.
    """
    final = _folder(folder, step)
    try:
        with new_folder(final) as part:
            with (part / STATE).open("wb") as file:  # by its path PyTorch would not say why it cannot be written
                torch.save(state, file)
            if score is not None:
                (part / SCORE).write_text(json.dumps(score._asdict()) + "\n")
    except (OSError, RuntimeError) as error:  # the second is what PyTorch makes of the first
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or (str(cause).splitlines() or [type(cause).__name__])[0]
        raise StateError(
            f"{final} cannot be written ({reason}); mend this or make room, and the same command continues"
        ) from error
    best = best_state(folder)
    for old in states(folder)[:-keep]:
        if old != best:
            discard(old)
    return final


def load_newest(folder: Path, device: torch.device) -> tuple[int, dict[str, Any]] | None:
    """The newest readable state and its step; ``None`` where there is none at all.

    Raises:
        StateError: there are states and not one can be read: starting from scratch must be somebody's decision.
    """
    for final in {folder / path.name.split("-", 1)[1].rpartition("-")[0] for path in folder.glob(".*-step-*-*")}:
        recover(final)
    found = states(folder)
    for path in reversed(found):
        try:
            return int(path.name.split("-")[1]), read_state(path, device)
        except Exception as error:  # a file cut short can raise almost anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("%s cannot be read (%s); trying an older one", path / STATE, reason)
    if found:
        raise StateError(f"{folder}: none of {len(found)} states can be read; remove the folder to start from scratch")
    return None


def load_newest_of_all(folder: Path, device: torch.device) -> tuple[int, dict[str, Any]] | None:
    """:func:`load_newest` on every rank: the first one finds and checks the state, the others read the same file.

    Raises:
        StateError: also where another rank does not see the file.
    """
    found = []

    def look() -> int | None:
        found.append(load_newest(folder, device))
        return found[0] and found[0][0]

    step = ranks.lead(look)
    if found or step is None:
        return found[0] if found else None
    path = _folder(folder, step)
    try:
        return step, torch.load(path / STATE, map_location=device, weights_only=True, mmap=True)
    except OSError as error:
        where = socket.gethostname()
        raise StateError(
            f"{path} cannot be read on {where} ({error.strerror}): train.output must lie where all machines see it"
        ) from error


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """The state in a folder ``step-N``. Raises whatever a broken file makes: also where one bit is wrong."""
    with zipfile.ZipFile(path / STATE) as file:  # PyTorch writes checksums and does not compare them
        broken = file.testzip()
    if broken is not None:
        raise ValueError(f"{broken} has another checksum")
    return torch.load(path / STATE, map_location=device, weights_only=True)


def best_state(folder: Path) -> Path | None:
    """The state with the least score of the newest score's name, the newest of equals; None where no state has one."""
    scores = [(path, score) for path in reversed(states(folder)) if (score := read_score(path)) is not None]
    alike = [(path, score) for path, score in scores if score.name == scores[0][1].name]
    return min(alike, key=lambda pair: pair[1].value)[0] if alike else None


def read_score(path: Path) -> Score | None:
    """The score of the state in a folder ``step-N``; None where it has none."""
    try:
        score = Score(**json.loads((path / SCORE).read_text()))
        return score if math.isfinite(score.value) else None
    except (OSError, ValueError, TypeError):
        return None


def _folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def states(folder: Path) -> list[Path]:
    """All whole states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
