"""The model of a checkpoint folder."""

from pathlib import Path
from typing import Any

from amt.model.amt import AMT
from amt.model.checkpoint import load_model


def load_checkpoint(folder: str | Path, **overrides: Any) -> tuple[AMT, dict[str, Any]]:
    """The model in evaluation mode, on the CPU, and the whole of config.json.

    Args:
        folder: what :func:`amt.model.save_checkpoint` wrote.
        overrides: model settings that replace the saved ones, such as ``hand`` where a path differs on this machine.

    Raises:
        CheckpointError: the folder or one of its files is missing, broken, or does not belong to the other.
        ConfigError: an override cannot be, or is one that the weights do not fit; the message names it.
    """
    return load_model(AMT, folder, **overrides)
