"""``train.precision=auto``: bfloat16 where the device computes in it, else float32; a run that continues keeps what it had."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from amt.model.lean import bfloat16_is_slow
from amt.train.config import AUTO, Config

log = logging.getLogger(__name__)


def with_precision(config: Config, state: dict[str, Any] | None, device: torch.device) -> Config:
    """The configuration with a precision in place of ``auto``: the saved state's, or the one that suits the device.

    Args:
        state: of the run that continues; None for a new one.
    """
    if config.train.precision != AUTO:
        return config
    chosen = (state or {}).get("run", {}).get("train.precision") or suited(device)
    log.info("train.precision=auto: %s", chosen)
    return replace(config, train=replace(config.train, precision=chosen))


def suited(device: torch.device) -> str:
    """``bf16`` or ``float32``. A device without bfloat16 arithmetic computes in float32 and rounds, which takes longer."""
    if device.type == "cuda":
        slow = not torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        slow = bfloat16_is_slow(device)
    return "float32" if slow else "bf16"
