"""Resumable states: folders ``step-N``, each whole or absent, the newest readable one continued from."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from amt.files import new_folder, recover, remove

log = logging.getLogger(__name__)
STATE, LOCK = "state.pt", ".lock"


class StateError(RuntimeError):
    """No state can be continued from; the message names the folder and the remedy."""


@contextmanager
def only_run_in(output: Path) -> Iterator[None]:
    """Keeps other processes from training in the same folder, until this one leaves the block or ends. Raises StateError."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{output}: another process trains in it; choose another train.output, or wait") from None
        yield


def save_state(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes ``state`` (tensors and plain values) as ``folder/step-N`` and removes all but the newest ``keep`` states."""
    final = folder / f"step-{step:08d}"
    with new_folder(final) as part:
        try:
            torch.save(state, part / STATE)
        except RuntimeError as error:  # what PyTorch makes of a full disk
            reason = str(error).splitlines()[0]
            raise StateError(
                f"{final} cannot be written ({reason}); make room, and the same command continues"
            ) from error
    for old in states(folder)[:-keep]:
        remove(old)
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
            return int(path.name.split("-")[1]), torch.load(path / STATE, map_location=device, weights_only=True)
        except Exception as error:  # a file cut short can raise almost anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("%s cannot be read (%s); trying an older one", path / STATE, reason)
    if found:
        raise StateError(f"{folder}: none of {len(found)} states can be read; remove the folder to start from scratch")
    return None


def states(folder: Path) -> list[Path]:
    """All whole states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
