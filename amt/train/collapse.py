"""Watches whether the model still answers with different hands for different images, or with the mean of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amt.hand.batch import Targets
from amt.train.ranks import summed

LEAST_SPREAD = 0.1


@torch.no_grad()
def spread_ratio(joints: Tensor, targets: Targets) -> Tensor:
    """How much wrist-relative joints vary over a batch of all ranks, over how much its labels do: about 1, and 0 for a mean pose.

    Args:
        joints: predicted, [B, 21, 3], m.
        targets: samples without a labelled hand do not count.

    Returns:
        A number on the device; NaN where fewer than two samples are labelled.
    """
    valid = targets.hand_valid
    return _spread(joints, valid) / _spread(targets.joints, valid)


def _spread(joints: Tensor, valid: Tensor) -> Tensor:
    """The root mean square distance of [B, 21, 3] from its mean over the samples of ``valid`` [B]."""
    relative = torch.where(valid[:, None, None], joints - joints[:, :1], 0.0)[:, 1:]
    total, count = summed(relative.sum(dim=0), valid.sum())
    (squares,) = summed(torch.where(valid[:, None, None], relative - total / count, 0.0).square().sum())
    return squares.sqrt()


class CollapseMonitor:
    """Says when predictions have been as good as constant for a long time.

    Args:
        checks: looks in a row at a spread below :data:`LEAST_SPREAD` that end a run; 0 looks on for ever.
        first_step: earlier steps do not count: a model begins with the mean pose.
    """

    def __init__(self, checks: int, first_step: int):
        self.checks, self.first_step = checks, first_step
        self.low = 0  # looks in a row

    def look(self, rows: list[dict[str, Any]]) -> str | None:
        """Takes the steps since the last look ("step", "spread"). Returns a report where the run should end, else None."""
        spreads = [row["spread"] for row in rows if row["step"] >= self.first_step and row["spread"] == row["spread"]]
        if not spreads:
            return None
        mean = sum(spreads) / len(spreads)
        self.low = self.low + 1 if mean < LEAST_SPREAD else 0
        if not 0 < self.checks <= self.low:
            return None
        return (
            f"step {rows[-1]['step']}: the model has collapsed to a mean pose: for {self.low} looks in a row its joints varied "
            f"less than {LEAST_SPREAD:g} times as much as the labels, last {mean:.3f} times. See that images and labels belong "
            "together, lower train.lr and train.muon_lr, or try train.loss.diversity=0.5, model.drop_path=0.1 and "
            "model.feature_noise=0.1; train.collapse_checks=0 switches this check off"
        )

    def state_dict(self) -> dict[str, int]:
        return {"low": self.low}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.low = state["low"]
