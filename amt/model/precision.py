"""Coordinates stay float32: under autocast a matrix product would round metres to steps of 2 to 4 mm."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from amt.hand.autocast import no_autocast


def coordinates(function):
    """Decorates a function of coordinates: it runs outside autocast.

    16-bit tensors among its positional arguments become float32, those inside tuples and NamedTuples too. One argument at
    least must be or hold a tensor.
    """

    @functools.wraps(function)
    def run(*arguments):
        with no_autocast(_device_type(arguments)):
            return function(*(_float32(a) for a in arguments))

    return run


def _device_type(values: tuple) -> str | None:
    """The device type of the first tensor; None where there is none."""
    for value in values:
        found = value.device.type if isinstance(value, Tensor) else None
        if isinstance(value, tuple):
            found = _device_type(value)
        if found is not None:
            return found
    return None


def _float32(value):
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if not isinstance(value, tuple):
        return value
    parts = [_float32(part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
