"""Coordinates stay float32: under autocast a matrix product of metres would be rounded to 2 - 4 mm."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from amt.hand.autocast import no_autocast


def coordinates(function):
    """Decorates a function of coordinates: it runs outside autocast, its floating-point tensors brought to float32."""

    @functools.wraps(function)
    def run(*arguments):
        device = next(a.device.type for a in arguments if isinstance(a, Tensor))
        with no_autocast(device):
            return function(*(_single(a) for a in arguments))

    return run


def _single(value):
    narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value
