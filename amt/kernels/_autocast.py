"""Autocast as it concerns code that chooses its own dtypes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(device_type: str) -> AbstractContextManager:
    """Autocast off on that device type; PyTorch has no autocast for ``meta``."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast has ``x`` multiplied; that of ``x`` where autocast is off."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)
