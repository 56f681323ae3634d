"""Every hand of a picture: where a finder sees hands, the predictor looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from amt.data.crops import centred_square
from amt.infer.result import Result
from amt.infer.smooth import HandFilter
from amt.infer.tracks import HandTracks, Track, follow
from amt.locate import Finder
from amt.locate.sides import in_doubt, word
from amt.locate.squares import SETTLED, moved, next_box

if TYPE_CHECKING:
    from amt.infer.predictor import Predictor, Request

LOCATED = "located"  # Result.box_source
OTHER = {"right": "left", "left": "right"}


def predict_hands(predictor: Predictor, requests: Sequence[Request], side: str | None = None) -> list[list[Result]]:
    """All hands of each picture, the surest first; [] for a picture without one.

    A request with a box, and any request of a predictor without a finder, has one answer, as ``predict_many`` gives it.

    Args:
        side: of every hand, where it is known; None: the finder's word.
    """
    finder = predictor.finder
    looked_for = [request.box is None and finder is not None for request in requests]
    pictures = [request.image for request, wanted in zip(requests, looked_for) if wanted]
    found = iter(finder.locate_many(pictures) if pictures else ())
    asked = [
        [
            (replace(request, box=hand.box, near=None, side=side or hand.side), None if side else hand.odds)
            for hand in next(found)
        ]
        for request, wanted in zip(requests, looked_for)
        if wanted
    ]
    located = iter(located_hands(predictor, [one for of_picture in asked for one in of_picture]))
    hands = iter([[next(located) for _ in of_picture] for of_picture in asked])
    given = iter(predictor.predict_many([r for r, wanted in zip(requests, looked_for) if not wanted]))
    return [next(hands) if wanted else [next(given)] for wanted in looked_for]


def located_hands(predictor: Predictor, asked: Sequence[tuple[Request, float | None]]) -> list[Result]:
    """The hands in squares that a finder gave: looked at a second time where their joints ask for another square.

    Args:
        asked: requests with the finder's squares, and the odds of a right hand (nats); None where the side is known.
    """
    results = [as_located(result) for result, _ in from_both_sides(predictor, asked)]
    squares = {}
    for k, ((request, _), result) in enumerate(zip(asked, results)):
        square = next_box(result.joints_2d, *request.image.shape[:2], predictor.box_scale)
        if result.hand_found and moved(request.box, square) >= SETTLED:
            squares[k] = square
    again = [replace(asked[k][0], box=square, side=results[k].side) for k, square in squares.items()]
    for k, result in zip(squares, predictor.predict_many(again)):
        if np.isfinite(result.joints).all():
            results[k] = as_located(result)
    return results


def from_both_sides(predictor: Predictor, asked: Sequence[tuple[Request, float | None]]) -> list[tuple[Result, float]]:
    """The answer to each request, and the model's word on the side (nats), 0 where it was not asked.

    Args:
        asked: requests, and the odds of a right hand (nats); None where the side is known.
    """
    doubtful = [k for k, (_, odds) in enumerate(asked) if odds is not None and in_doubt(odds)]
    own = predictor.predict_many([request for request, _ in asked])
    answers = [(result, 0.0) for result in own]
    # apart from the first looks, so that the sizes of batches stay those of the hands: each size has a trace of its own
    others = (
        predictor.predict_many([replace(asked[k][0], side=OTHER[own[k].side]) for k in doubtful]) if doubtful else []
    )
    for k, other in zip(doubtful, others):
        sides = {own[k].side: own[k], other.side: other}
        said = word(sides["right"].doubt, sides["left"].doubt)
        answers[k] = sides["right" if asked[k][1] + said >= 0 else "left"], said
    return answers


class HandsTracker:
    """The hands of a video, frame by frame; each has a number that it keeps.

    Args:
        smooth: joints, mesh and object by :class:`amt.infer.smooth.HandFilter`.
    """

    def __init__(self, predictor: Predictor, finder: Finder, side: str | None = None, smooth: bool = True):
        self.predictor, self.smooth = predictor, smooth
        self.tracks = HandTracks(finder, side, predictor.box_scale)
        self._filters: dict[int, HandFilter] = {}

    def next(self, request: Request, time: float) -> list[tuple[int, Result]]:
        """The hands of the next frame, with their numbers, in the order of these.

        Args:
            time: of the frame, s.
        """
        answers = follow(self.tracks, request.image, self._predict(request))
        self._filters = {n: f for n, f in self._filters.items() if any(t.number == n for t in self.tracks.tracks)}
        return [
            (track.number, self._smoothed(track.number, result, time))
            for track, result in sorted(answers, key=lambda answer: answer[0].number)
        ]

    def _predict(self, request: Request) -> Callable[[list[Track]], list[Result]]:
        def predict(tracks: list[Track]) -> list[Result]:
            asked = [
                (
                    replace(request, box=track.box, near=None, side=track.side),
                    track.odds if self.tracks.in_doubt(track) else None,
                )
                for track in tracks
            ]
            results = []
            for track, (result, said) in zip(tracks, from_both_sides(self.predictor, asked)):
                self.tracks.hear(track, said)
                results.append(result)
            results = [as_located(r) if t.confirmed else r for r, t in zip(results, tracks)]
            return [replace(r, box_source=LOCATED if not t.seen else "tracked") for r, t in zip(results, tracks)]

        return predict

    def _smoothed(self, number: int, result: Result, time: float) -> Result:
        if not self.smooth:
            return result
        kept = self._filters.get(number)
        if kept is None or kept.side != result.side:  # a hand whose side was taken for the other is another hand
            kept = self._filters[number] = HandFilter(result.side)
        return kept(result, time)


def no_hand(predictor: Predictor, request: Request) -> Result:
    """What is said of a picture in which the finder sees no hand: the model's word on its middle, marked as none."""
    middle = centred_square(*request.image.shape[:2])
    (result,) = predictor.predict_many([replace(request, box=middle, near=None)])
    return replace(result, box_source=LOCATED, hand_found=False)


def as_located(result: Result) -> Result:
    """The answer about a hand that the finder saw: its word decides whether there is one."""
    return replace(result, box_source=LOCATED, hand_found=bool(np.isfinite(result.joints).all()))
