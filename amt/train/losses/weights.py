"""The terms' weights over a run: fixed, by a declared schedule, or divided by learned variances."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import Tensor, nn

from amt.train.config import TERMS, LossConfig, LossSchedule

LEAST_LOG_VARIANCE, GREATEST_LOG_VARIANCE = -5.0, 5.0
FIXED = frozenset(
    {"kl", "diversity", "joint_limits", "penetration", "variance", "outline"}
)  # no errors of an answer: nothing to learn


def weights_at(step: int, config: LossConfig, schedule: LossSchedule) -> dict[str, float]:
    """The weight of each term at ``step``: the schedule's where there is one, linear between its points, else the fixed one."""
    return {name: _at(step, schedule[name]) if name in schedule else getattr(config, name) for name in TERMS}


def wanted_terms(config: LossConfig, schedule: LossSchedule) -> frozenset[str]:
    """The terms that have a weight at some step of the run."""
    return frozenset(
        name
        for name in TERMS
        if (any(weight > 0 for _, weight in schedule[name]) if name in schedule else getattr(config, name) > 0)
    )


def _at(step: int, points: list[list[float]]) -> float:
    """A piecewise linear function of the step, constant before the first point and after the last."""
    after = bisect_right([point[0] for point in points], step)
    if after in (0, len(points)):
        return float(points[max(0, after - 1)][1])
    (start, low), (end, high) = points[after - 1 : after + 1]
    return low + (high - low) * (step - start) / (end - start)


class LearnedVariances(nn.Module):
    """Uncertainty weighting: sum_i w_i exp(-s_i) L_i + s_i with a learned log-variance s_i for each term, 0 at first.

    Kendall, Gal and Cipolla, "Multi-task learning using uncertainty to weigh losses" (CVPR 2018). A term that is exactly 0,
    because its labels are missing or its weight is 0, leaves its log-variance alone. Terms of :data:`FIXED` keep their weights.
    """

    def __init__(self, names: frozenset[str]):
        super().__init__()
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in sorted(names - FIXED)})

    def forward(self, name: str, weighted: Tensor) -> Tensor:
        """What a term with this weighted value adds to the total."""
        if name in FIXED:
            return weighted
        s = self.log_variance[name].clamp(LEAST_LOG_VARIANCE, GREATEST_LOG_VARIANCE)
        return torch.where(weighted.detach() != 0, torch.exp(-s) * weighted + s, weighted)
