"""The moving average of a model: what is evaluated and exported, while the optimizer goes on with the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amt.kernels._torch_private import foreach_lerp_
from amt.train.sharding import local, rows_of


class Ema:
    """An exponential moving average of everything in a model's state: parameters and batch norms' running statistics.

    ``average = decay * average + (1 - decay) * value`` after each step. The decay rises as (1 + step) / (10 + step) at first, so
    that a short run does not end with the initial weights in its average. Whole numbers are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        values = model.state_dict(keep_vars=True)
        self.values: dict[str, Tensor] = {
            name: value.detach() for name, value in values.items()
        }  # the model's own memory
        self.averages = {name: value.clone() for name, value in self.values.items()}
        floating = [name for name, value in self.values.items() if value.is_floating_point()]
        self._floating = [[local(tensors[name]) for name in floating] for tensors in (self.averages, self.values)]
        self._counts = [name for name in self.values if name not in set(floating)]

    @torch.no_grad()
    def update(self, step: int, found_inf: Tensor) -> None:
        """Takes in the values after ``step`` (from 0); nothing where ``found_inf`` (a number on the device) is not 0."""
        weight = (1 - found_inf) * (1 - min(self.decay, (1 + step) / (10 + step)))
        averages, values = self._floating
        foreach_lerp_(averages, values, [weight] * len(values))
        for name in self._counts:  # what a skipped step counted is undone already
            self.averages[name].copy_(self.values[name])

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """A block in which the model has the averages for its values."""
        own = {name: value.clone() for name, value in self.values.items()}
        self._assign(self.values, self.averages)
        try:
            yield
        finally:
            self._assign(self.values, own)

    def state_dict(self) -> dict[str, Tensor]:
        return self.averages

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor] | None) -> None:
        """Takes over saved averages; None begins anew from the model's values.

        Raises:
            KeyError, RuntimeError: the averages are another model's.
        """
        state = self.values if state is None else state
        self._assign(self.averages, state)

    @staticmethod
    def _assign(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
        for name, target in targets.items():
            target.copy_(rows_of(sources[name], target))
