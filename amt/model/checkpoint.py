"""A checkpoint that users share: a folder with model.safetensors and config.json. Nothing in it can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt.model.config import ModelConfig

if TYPE_CHECKING:
    from amt.model.amt import AMT

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class CheckpointError(RuntimeError):
    """A checkpoint folder that cannot be read; the message names the file and the remedy."""


def save_checkpoint(folder: str | Path, model: AMT, **record: Any) -> Path:
    """Writes the model's weights and configuration; each file appears whole or not at all.

    Args:
        folder: made where it does not exist.
        model: its configuration goes under "model" in config.json.
        record: further JSON values for config.json (what it was trained on, and how).
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    part = folder / (WEIGHTS + ".tmp")
    save_file(state, part)
    _publish(part, folder / WEIGHTS)
    part = folder / (CONFIG + ".tmp")
    part.write_text(json.dumps({"model": model.config.as_dict(), **record}, indent=2) + "\n")
    _publish(part, folder / CONFIG)
    return folder


def read_record(folder: str | Path) -> dict[str, Any]:
    """The whole of config.json, read without PyTorch: a wrong path is told at once.

    Raises:
        CheckpointError: the folder or one of its files is missing, or config.json cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder; python -m amt.train writes one")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: a checkpoint holds {WEIGHTS} and {CONFIG}; copy both")
    try:
        record = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} is not JSON ({error}); copy the folder again") from error
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise CheckpointError(f'{folder / CONFIG} is not a configuration of this version: it has no section "model"')
    return record


def load_checkpoint(folder: str | Path, **overrides: Any) -> tuple[AMT, dict[str, Any]]:
    """The model in evaluation mode, on the CPU, and the whole of config.json.

    Args:
        folder: what :func:`save_checkpoint` wrote.
        overrides: model settings that replace the saved ones, such as ``hand`` where a path differs on this machine.

    Raises:
        CheckpointError: the folder or one of its files is missing, broken, or does not belong to the other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from amt.model.amt import AMT

    folder, record = Path(folder), read_record(folder)
    try:
        config = ModelConfig.from_dict({**record["model"], **overrides})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not a configuration of this version: {error}") from error
    # its own weights come from the checkpoint: looking for pretrained ones would only warn or fail
    config.backbone.weights, config.backbone.require_pretrained = "none", False
    model = AMT(config)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder / WEIGHTS} cannot be loaded: {reason}; copy the folder again") from error
    return model.eval(), record


def _publish(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
