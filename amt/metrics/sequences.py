"""Errors of movement, over the frames of one camera that follow each other."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.metrics.joints import MM_PER_M


def acceleration_error_mm(predicted: Tensor, true: Tensor, fps: float | None = None) -> Tensor:
    """Distance of the accelerations of each joint, [T - 2, J], of joints [T, J, 3] (m) in frames that follow each other.

    Accelerations are second differences, mm a frame squared; with ``fps`` frames a second, mm/s².
    """

    def second(x: Tensor) -> Tensor:
        return x[2:] - 2 * x[1:-1] + x[:-2]

    error = (second(predicted.double()) - second(true.double())).norm(dim=-1) * MM_PER_M
    return error if fps is None else error * fps**2


def lag_frames(predicted: Tensor, true: Tensor, longest: int = 5) -> float:
    """By how many frames a prediction runs behind the truth; below 0: ahead. NaN where nothing moves or too few frames are there.

    The delay, from -``longest`` to ``longest``, at which the truth is nearest to the prediction in the mean of squares over
    the frames that both have; between whole frames by a parabola through the three lowest points.

    Args:
        predicted, true: [T, J, 3], m.
    """
    predicted, true = predicted.double(), true.double()
    frames = len(true)
    if frames < 2 * longest + 2 or bool((true == true[:1]).all()):
        return float("nan")
    inside = predicted[longest : frames - longest]
    costs = [
        (inside - true[longest - delay : frames - longest - delay]).square().sum(dim=-1).mean().item()
        for delay in range(-longest, longest + 1)
    ]
    best = int(torch.tensor(costs).argmin())
    if best in (0, len(costs) - 1):
        return float(best - longest)
    left, middle, right = costs[best - 1 : best + 2]
    bend = left - 2 * middle + right
    return best - longest + (0.5 * (left - right) / bend if bend > 0 else 0.0)
