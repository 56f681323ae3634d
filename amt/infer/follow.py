"""The hands of one picture after the other, as a run, ``--bench`` and ``--benchmark`` follow them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amt.infer.hands import HandsTracker, no_hand
from amt.infer.lens import project_through
from amt.infer.predictor import Predictor
from amt.infer.request import Request
from amt.infer.result import Result
from amt.infer.track import Tracker


class Follower:
    """All hands that the predictor's finder sees, each with its number; one hand where a box is given or there is no finder.

    Args:
        side: of every hand, where it is known.
        smooth: joints, mesh and object of hands that a finder found (:mod:`amt.infer.smooth`).
    """

    def __init__(self, predictor: Predictor, side: str | None = None, smooth: bool = True):
        self.predictor, self.one = predictor, Tracker(predictor)
        finder = predictor.finder
        self.every = None if finder is None else HandsTracker(predictor, finder, side, smooth)

    def next(self, request: Request, time: float) -> tuple[tuple[Result, ...], tuple[int | None, ...]]:
        """The hands of the next picture and their numbers: at least one, whose ``hand_found`` is False where there is none.

        Args:
            time: of the picture, s.
        """
        if self.every is None or request.box is not None:
            return (self.one.next(request),), (None,)
        hands = self.every.next(request, time)
        if not hands:
            return (no_hand(self.predictor, request),), (None,)
        return tuple(_seen(result) for _, result in hands), tuple(number for number, _ in hands)


def _seen(result: Result) -> Result:
    """Joints that were smoothed, as the lens shows them."""
    if result.lens is None:
        return result
    pixels = project_through(result.joints, result.intrinsics, result.lens)
    return replace(result, joints_2d=pixels.astype(np.float32))
