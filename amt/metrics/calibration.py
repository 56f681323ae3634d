"""Whether what a model says of its own certainty is true."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15
LEVELS = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)


@dataclass(frozen=True)
class Reliability:
    """Probabilities sorted into bins of equal width. Two of them add up."""

    count: Tensor  # float64 [bins]: how many probabilities
    said: Tensor  # float64 [bins]: their sum
    true: Tensor  # float64 [bins]: how many of the events came true

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.count + other.count, self.said + other.said, self.true + other.true)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0-1: mean over all events of |mean probability - share that came true| of their bin."""
        return float((self.said - self.true).abs().sum() / self.count.sum().clamp(min=1))


def reliability(probability: Tensor, event: Tensor, bins: int = BINS) -> Reliability:
    """Probabilities (0-1) of any one shape against events (bool) of the same; bin k holds those from k / bins on."""
    p, came = probability.double().flatten(), event.double().flatten()
    place = (p * bins).long().clamp(0, bins - 1)
    sums = [torch.zeros(bins, dtype=torch.float64).index_add_(0, place, x) for x in (torch.ones_like(p), p, came)]
    return Reliability(*sums)


def laplace_coverage(error: Tensor, scale: Tensor, levels: Tensor = LEVELS) -> Tensor:
    """Share of a joint's three coordinates whose error lies inside what a Laplace distribution promises: [N, L, J].

    Level p promises |error| <= -scale * ln(1 - p). The mean over samples of calibrated scales gives back the levels; larger
    shares mean that the model is surer than it says.

    Args:
        error: [N, J, 3], m: predicted minus true; scale: [N, J], m; levels: [L], 0-1.
    """
    ratio = error.double().abs() / scale.double().clamp(min=1e-12)[..., None]
    return torch.stack([(ratio <= -torch.log1p(-p)).double().mean(dim=2) for p in levels.double()], 1)
