"""Sums that add up over batches and over ranks."""

from __future__ import annotations

import torch
from torch import Tensor


class Sums:
    """A sum and a count by name, in float64.

    ``sums.add("error_mm", values)`` a batch, ``sums += other`` of another part, ``sums.reduce()`` over ranks, then
    ``sums.mean("error_mm")``. Rounding aside, the order and the sizes of the parts change nothing.
    """

    def __init__(self):
        self._parts: dict[str, tuple[Tensor, float]] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Adds values [N, ...]: their sum over N, a number for each of the other places, and N."""
        total, count = values.double().sum(dim=0).cpu(), float(len(values))
        if name in self._parts:
            before, counted = self._parts[name]
            if before.shape != total.shape:
                raise ValueError(f"{name}: expected values [N, {list(before.shape)}], got {list(values.shape)}")
            total, count = before + total, counted + count
        self._parts[name] = total, count

    def __iadd__(self, other: Sums) -> Sums:
        for name, (total, count) in other._parts.items():
            before, counted = self._parts.get(name, (torch.zeros_like(total), 0.0))
            self._parts[name] = before + total, counted + count
        return self

    def reduce(self) -> None:
        """Adds up over the ranks of ``torch.distributed``, where there are several. Every rank must call it."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        found: list[Sums | None] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, self)
        self._parts = {}
        for part in found:  # by rank: the same sum on each
            self += part

    def names(self) -> list[str]:
        return list(self._parts)

    def count(self, name: str) -> int:
        """How many values were added; 0 where the name is not known."""
        return int(self._parts[name][1]) if name in self._parts else 0

    def mean(self, name: str) -> float | list[float]:
        """The mean; a list where each value was a row of numbers. Raises KeyError where nothing was added."""
        total, count = self._parts[name]
        if not count:
            raise KeyError(name)
        return (total / count).tolist()
