"""The locator that comes with the package, for checkpoints without a good one of their own; assets/locator.md is its card.

It was trained on rendered scenes alone, by ``python -m amt.train.locator.bake``. Weights lie in bfloat16, statistics in float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from amt.model.locator import Locator, LocatorConfig

ASSET = Path(__file__).parent / "assets" / "locator.safetensors"
LICENSE = "Apache-2.0"


def shipped_locator(path: Path = ASSET) -> Locator:
    """The locator in evaluation mode, float32, on the CPU.

    Raises:
        RuntimeError: the file is missing or broken; the message names the remedy.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        locator = Locator(LocatorConfig.from_dict(shipped_record(path)["config"]))
        locator.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(f"{path} cannot be loaded ({reason}); install the package again") from error
    return locator.eval()


def shipped_record(path: Path = ASSET) -> dict[str, Any]:
    """``config``, ``figures`` of validation and test people, ``origin``, ``license``."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["locator"])


def save_shipped(path: Path, locator: Locator, record: Mapping[str, Any]) -> None:
    """Args: record: what stands beside the configuration."""
    from safetensors.torch import save_file

    state = {}
    for name, value in locator.state_dict().items():
        is_weight = value.dim() > 1 and value.is_floating_point()
        state[name] = (value.to(torch.bfloat16) if is_weight else value).contiguous()
    described = {"config": locator.config.as_dict(), **record, "license": LICENSE}
    save_file(state, path, {"locator": json.dumps(described)})
    path.chmod(0o644)  # safetensors makes it readable for its owner only
