"""Smoothing over the frames of a video: the one-euro filter (Casiez, Roussel and Vogel, CHI 2012).

A low-pass filter whose cutoff rises with speed: a hand at rest does not tremble, a hand that moves is not dragged behind. Its lag
is 1 / (2 pi cutoff): 106 ms at rest, where nothing moves that could lag, and 21 ms at 0.5 m/s with the defaults.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amt.hand.camera import project
from amt.infer.result import Result

MIN_CUTOFF = 1.5  # Hz, at rest
BETA = 12.0  # Hz per m/s
SPEED_CUTOFF = 2.0  # Hz, of the speed's own low-pass filter
LONGEST_GAP = 0.5  # s: after a longer one the filter begins anew


class OneEuro:
    """Filters points [..., D] over time. The cutoff follows each point's speed, not a coordinate's: axes do not matter.

    Args:
        min_cutoff: Hz; beta: Hz per unit/s; speed_cutoff: Hz.
    """

    def __init__(self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA, speed_cutoff: float = SPEED_CUTOFF):
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self.value: np.ndarray | None = None
        self._raw: np.ndarray | None = None
        self._velocity: np.ndarray | None = None
        self._time = 0.0

    def __call__(self, value: np.ndarray, time: float) -> np.ndarray:
        """The filtered value at ``time`` (s). A value that is not finite is given back as it is and not remembered."""
        value = np.asarray(value, np.float64)
        if not np.isfinite(value).all():
            return value
        step = time - self._time
        if self.value is None or not 0 < step <= LONGEST_GAP:
            self.value, self._velocity = value, np.zeros_like(value)
        else:
            share = _share(self.speed_cutoff, step)
            self._velocity = self._velocity + share * ((value - self._raw) / step - self._velocity)
            speed = np.linalg.norm(self._velocity, axis=-1, keepdims=True)
            self.value = self.value + _share(self.min_cutoff + self.beta * speed, step) * (value - self.value)
        self._raw, self._time = value, time
        return self.value


def _share(cutoff: float | np.ndarray, step: float) -> float | np.ndarray:
    """How much of the difference to a new value a low-pass filter of first order takes after ``step`` seconds."""
    return 1 - np.exp(-2 * np.pi * cutoff * step)


class HandFilter:
    """Smooths the answers about one hand: the wrist's place, the joints and the mesh about it. The object goes with the wrist."""

    def __init__(self, side: str = "right"):
        self.side = side
        self._wrist, self._joints, self._vertices = OneEuro(), OneEuro(), OneEuro()

    def __call__(self, result: Result, time: float) -> Result:
        """The result with joints, vertices and pixels smoothed, and all that is placed by the wrist moved with it."""
        wrist = result.joints[0].astype(np.float64)
        place = self._wrist(wrist, time)
        joints = place + self._joints(result.joints - wrist, time)
        vertices = place + self._vertices(result.vertices - wrist, time)
        moved = (place - wrist).astype(np.float32)
        placed = {} if result.object_translation is None else {"object_translation": result.object_translation + moved}
        return replace(
            result,
            joints=joints.astype(np.float32),
            vertices=vertices.astype(np.float32),
            joints_2d=project(joints.astype(np.float32), np.asarray(result.intrinsics, np.float32)).numpy(),
            translation=result.translation + moved,
            mano_joints=result.mano_joints + moved,
            mano_vertices=result.mano_vertices + moved,
            **placed,
        )
