"""The definition of ``normalize`` in plain PyTorch; every other implementation gives the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_CHANNELS = 3


def normalize(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:  # [B, 3, H, W], [3], [3] -> [B, 3, H, W]
    # In place in one new tensor: for a large one, fresh memory costs more than the arithmetic
    levels = image.to(mean.dtype, copy=True, memory_format=torch.contiguous_format)
    return levels.sub_(mean[:, None, None]).mul_(scale[:, None, None])
