"""Does a model answer with different hands for different pictures, or with one hand for all?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amt.hand.skeleton import JOINT_NAMES
from amt.metrics import spread_ratio, wrist_aligned_error_mm

LEAST_SPREAD = 0.1  # of predictions over labels; amt.train ends a run below it
WORST_RANK = 0.35  # 0.5 is chance, with a deviation of 0.29 over the root of the number of hands
LEAST_IMAGE = 0.05  # of the spread, that another picture in the same box must change
FEWEST = 8  # labelled hands


@dataclass(frozen=True)
class Diversity:
    """Predicted joints from the wrist over a subset, beside the labels'. ``str()`` is the verdict in words."""

    hands: int
    spread: tuple[float, ...]  # of predictions over labels, joints 1 to 20
    error_mm: float  # wrist-aligned, mean over joints
    constant_error_mm: float  # of the best constant answer: the labels' mean
    rank: float  # share of other hands' labels that lie nearer to a prediction than its own: 0 best, 0.5 chance
    neighbour: float  # distance of a prediction to the nearest other prediction, over the same of labels (medians)
    image: float  # how far another picture in the same box moves joints, over the labels' spread
    faults: tuple[str, ...]

    @property
    def mean_spread(self) -> float:
        return sum(self.spread) / len(self.spread)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.faults:
            return "; ".join(self.faults)
        better = f"{self.error_mm:.1f} mm against {self.constant_error_mm:.1f} mm of the best constant answer"
        return f"predictions differ as the pictures do: {self.mean_spread:.2f} times the labels' spread, {better}"

    def __str__(self) -> str:
        low = min(range(len(self.spread)), key=lambda k: self.spread[k])
        return "\n".join(
            [
                self.verdict,
                f"  {self.hands} hands, spread {self.mean_spread:.3f} of the labels', least {self.spread[low]:.3f} "
                f"({JOINT_NAMES[low + 1]})",
                f"  error {self.error_mm:.1f} mm, best constant answer {self.constant_error_mm:.1f} mm",
                f"  other labels nearer than the own: {self.rank:.1%} (chance 50 %)",
                f"  nearest other prediction: {self.neighbour:.2f} times as far as among labels",
                f"  another picture moves joints by {self.image:.2f} of the labels' spread",
            ]
        )


@torch.no_grad()
def judge_diversity(joints: Tensor, true: Tensor, swapped: Tensor) -> Diversity:
    """The tests.

    Args:
        joints, true: predicted and labelled, [N, 21, 3], m.
        swapped: predicted for the same boxes and cameras with the next sample's picture in each, [N, 21, 3], m.

    Raises:
        ValueError: fewer than :data:`FEWEST` hands.
    """
    if len(joints) < FEWEST:
        raise ValueError(f"diversity: expected at least {FEWEST} labelled hands, got {len(joints)}; give more frames")
    if not (joints.isfinite().all() and swapped.isfinite().all()):
        fault = "predictions are not finite: find_nonfinite(batch) names the first module"
        nan = float("nan")
        return Diversity(len(joints), (nan,) * 20, nan, nan, nan, nan, nan, (fault,))
    ratios = spread_ratio(joints, true)
    a, b, c = ((x - x[:, :1])[:, 1:].double().flatten(1) for x in (joints, true, swapped))
    far = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    own = far.diagonal()[:, None]
    nearer = (far < own).sum(dim=1) + 0.5 * ((far == own).sum(dim=1) - 1)
    rank = float((nearer / (len(a) - 1)).mean())
    apart = [_nearest(x).median() for x in (a, b)]
    deviation = (b - b.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    # two pictures that have nothing in common are a factor of the square root of 2 apart
    image = float((a - c).square().sum(dim=1).mean().sqrt() / (2**0.5 * deviation.clamp(min=1e-9)))
    error = float(wrist_aligned_error_mm(joints, true).mean())
    mean = (true - true[:, :1]).mean(dim=0, keepdim=True)
    constant = float(wrist_aligned_error_mm(mean.expand_as(true), true).mean())
    spread = float(ratios.mean())
    faults = []
    if spread < LEAST_SPREAD:
        faults.append(
            f"collapsed: predictions vary {spread:.3f} times as much as the labels (least {LEAST_SPREAD:g}): one hand for "
            "every picture"
        )
    if image < LEAST_IMAGE:
        faults.append(
            f"blind: another picture in the same box moves joints by {image:.3f} of the labels' spread (least {LEAST_IMAGE:g})"
        )
    if not faults and rank > WORST_RANK:
        faults.append(
            f"unrelated: predictions vary, but {rank:.0%} of other labels lie nearer to them than their own (chance 50 %): see "
            "that images and labels belong together"
        )
    neighbour = float(apart[0] / apart[1].clamp(min=1e-9))
    return Diversity(
        len(joints), tuple(float(r) for r in ratios), error, constant, rank, neighbour, image, tuple(faults)
    )


def _nearest(x: Tensor) -> Tensor:
    """[N]: the distance of each row to the nearest other one."""
    far = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return far.fill_diagonal_(float("inf")).amin(dim=1)
