"""How well a robot's hand followed: fingertip error, limits, jerk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amt.robot.models import RobotHand
from amt.robot.solve import HandMotion

BIN, BINS = 0.1, 2000  # mm, and how many: of the histogram of fingertip errors


class Figures(NamedTuple):
    """Of one hand's motion."""

    frames: int
    tip_mean_mm: float  # from the scaled hand's fingertips
    tip_p95_mm: float  # to 0.1 mm
    violations: int  # angles beyond a limit by more than 1e-9 rad
    jerk_rad_s3: float  # root mean square over joints and frames; 0 for fewer than four consecutive frames
    unlimited: int  # joints for which the model has no limit

    def line(self) -> str:
        """For people."""
        free = f" ({self.unlimited} joints have none)" if self.unlimited else ""
        return (
            f"{self.frames} frames, fingertips {self.tip_mean_mm:.1f} mm from the scaled hand's (95 % below "
            f"{self.tip_p95_mm:.1f} mm), jerk {self.jerk_rad_s3:.0f} rad/s³, {self.violations} limits violated{free}"
        )


class Tally:
    """:class:`Figures` of a motion of any length, frame by frame.

    Args:
        rate: frames/s; None: single pictures, which have no jerk.
    """

    def __init__(self, hand: RobotHand, rate: float | None):
        self.hand, self.rate = hand, rate
        self.frames = self.violations = self.jerks = 0
        self.error_sum = self.jerk_sum = 0.0
        self.histogram = np.zeros(BINS, np.int64)
        self.recent: deque[np.ndarray] = deque(maxlen=4)

    def add(self, motion: HandMotion, follows: bool = True) -> None:
        """Adds a frame; ``follows``: right after the one before."""
        if not follows:
            self.recent.clear()
        self.frames += 1
        self.error_sum += float(motion.tip_error_mm.mean())
        np.add.at(self.histogram, np.clip(motion.tip_error_mm / BIN, 0, BINS - 1).astype(int), 1)
        low, high = self.hand.limits.T
        self.violations += int(((motion.angles < low - 1e-9) | (motion.angles > high + 1e-9)).sum())
        self.recent.append(motion.angles)
        if len(self.recent) == 4 and self.rate is not None:
            jerk = np.diff(np.stack(self.recent), 3, axis=0) * self.rate**3
            self.jerk_sum, self.jerks = self.jerk_sum + float(np.square(jerk).mean()), self.jerks + 1

    def figures(self) -> Figures:
        """The figures of all that was added."""
        share = np.cumsum(self.histogram) / max(1, self.histogram.sum())
        return Figures(
            self.frames,
            self.error_sum / max(1, self.frames),
            float(BIN * (1 + np.searchsorted(share, 0.95))),
            self.violations,
            float(np.sqrt(self.jerk_sum / max(1, self.jerks))),
            int((~np.isfinite(self.hand.limits)).any(1).sum()),
        )


def figures(hand: RobotHand, motions: Sequence[HandMotion], rate: float) -> Figures:
    """Figures of consecutive frames.

    Args:
        rate: frames/s.
    """
    tally = Tally(hand, rate)
    for motion in motions:
        tally.add(motion)
    return tally.figures()
