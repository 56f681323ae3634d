"""Where hand and object touch: counts, and what answers without looking would score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHARES = torch.linspace(0.02, 0.98, 49)  # the best constant mask names what is touched more often than one of these


@dataclass(frozen=True)
class Counts:
    """How often something was said, was so, and both. Counts add up."""

    hits: int = 0
    said: int = 0
    true: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.said + other.said, self.true + other.true)

    @property
    def precision(self) -> float:
        """Share of what was said that is so; 0 where nothing was said."""
        return self.hits / max(1, self.said)

    @property
    def recall(self) -> float:
        """Share of what is so that was said; 0 where nothing is."""
        return self.hits / max(1, self.true)

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where nothing was rightly found."""
        return 2 * self.hits / max(1, self.said + self.true)


def contact_counts(predicted: Tensor, true: Tensor) -> Counts:
    """Counts of booleans of any one shape, over all of them."""
    return Counts(int((predicted & true).sum()), int(predicted.sum()), int(true.sum()))


def f1(predicted: Tensor, true: Tensor) -> float:
    """F1 of booleans of any one shape, counted over all of them; 0 where nothing was rightly found."""
    return contact_counts(predicted, true).f1


def touching(contact: Tensor) -> Tensor:
    """Whether anything touches, bool [B], of contacts [B, V]."""
    return contact.any(dim=1)


def best_constant_mask(contact: Tensor) -> Tensor:
    """Of all masks that name the vertices touched more often than some share, the one with the best F1 on [N, V]: bool [V]."""
    if not len(contact):
        return torch.zeros(contact.shape[1:], dtype=torch.bool)
    share = contact.float().mean(dim=0)
    masks = share > SHARES[:, None]
    scores = 2 * (masks * share).sum(dim=1) / (masks.sum(dim=1) + share.sum()).clamp(min=1e-9)
    return masks[scores.argmax()]
