"""Resumable states: folders ``step-N``, each whole or absent, the newest readable one continued from."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)
STATE = "state.pt"


class StateError(RuntimeError):
    """No state can be continued from; the message names the folder and the remedy."""


def save_state(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes ``state`` (tensors and plain values) as ``folder/step-N`` and removes all but the newest ``keep`` states."""
    final, part = folder / f"step-{step:08d}", folder / f".tmp-{step:08d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with (part / STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)  # a state of this step that could not be read
    os.replace(part, final)
    _sync(folder)
    for old in states(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load_newest(folder: Path, device: torch.device) -> tuple[int, dict[str, Any]] | None:
    """The newest readable state and its step; ``None`` where there is none at all.

    Raises:
        StateError: there are states and not one can be read: starting from scratch must be somebody's decision.
    """
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


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
