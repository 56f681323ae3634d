"""The learning rate over a run."""

from __future__ import annotations

import math


def learning_rate(step: float, steps: int, peak: float, least: float, warmup: int, schedule: str = "cosine") -> float:
    """Linear from 0 to ``peak`` over ``warmup`` steps, then half a cosine down to ``least`` at the last of ``steps``.

    Args:
        schedule: "cosine", or "constant": ``peak`` from the warm-up on.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - warmup)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
