"""Coordinates are computed outside autocast: in bf16 a metre has steps of 4 - 8 mm."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device_type: str) -> AbstractContextManager:
    """Autocast off on that device type; PyTorch has no autocast for ``meta``."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
