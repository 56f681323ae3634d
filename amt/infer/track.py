"""Follows one hand from frame to frame, and searches less and less often while there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amt.data.crops import centred_square
from amt.infer.predictor import Predictor, Request
from amt.infer.result import Result
from amt.locate.squares import next_box

LONGEST_WAIT = 16  # frames between two searches of a video without a hand


class Tracker:
    """Looks for the hand where the frame before had it; where it is not, searches the whole frame.

    A search costs some eighty crops. After one that finds no hand, the next comes 2, 4, 8 and then 16 frames later; a frame in
    between is looked at in its middle only, by at most four crops.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.near: np.ndarray | None = None  # px: (cx, cy, side) around the hand of the last frame
        self.waiting, self.wait = 0, 1  # frames until the next search, frames that the last one waited

    def next(self, request: Request) -> Result:
        """The hand in the next frame."""
        result = self._look(request)
        if not result.hand_found:
            self.near = None
        else:
            self.near = next_box(result.joints_2d, *request.image.shape[:2], self.predictor.box_scale)
            self.waiting, self.wait = 0, 1
        return result

    def _look(self, request: Request) -> Result:
        if request.box is not None:
            return self._predict(request)
        near = self.near
        if near is None and self.waiting:
            self.waiting -= 1
            return self._predict(replace(request, near=centred_square(*request.image.shape[:2])))
        followed = None if near is None else self._predict(replace(request, near=near))
        if followed is not None and followed.hand_found and followed.box_settled:
            return followed
        searched = self._predict(request)
        if not searched.hand_found:
            self.wait = min(2 * self.wait, LONGEST_WAIT)
            self.waiting = self.wait - 1
        return followed if followed is not None and followed.hand_found and not searched.hand_found else searched

    def _predict(self, request: Request) -> Result:
        return self.predictor.predict_many([request])[0]
