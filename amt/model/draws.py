"""Random numbers for the samples of a batch. Where processes share a batch, a sample gets the same numbers as in one process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_number, _count, _run = 0, 1, 1


def share_batches(number: int, count: int, run: int = 1) -> None:
    """From now on a batch is every ``count``-th run of a larger one's samples, from the run ``number`` on.

    Args:
        run: samples that stay together, as the frames of a window do.
    """
    global _number, _count, _run
    _number, _count, _run = number, count, run


def drawn_like(x: Tensor, draw: Callable[[Tensor], Tensor] = Tensor.normal_) -> Tensor:
    """Random numbers of the shape and type of ``x`` [B, ...], by ``draw``, which fills a tensor in place."""
    if _count == 1:
        return draw(torch.empty_like(x))
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    shape = (len(x) * _count, *x.shape[1:])
    whole = draw(torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order))
    return whole.unflatten(0, (-1, _count, _run))[:, _number].flatten(0, 1)


def kept(x: Tensor, share: float) -> Tensor:
    """For each sample of ``x`` [B, ...] 0, for a share of them, or 1 / (1 - share): [B, 1, ...]."""
    ones = x.new_empty(len(x), *[1] * (x.dim() - 1))
    return drawn_like(ones, lambda mask: mask.bernoulli_(1 - share)) / (1 - share)
