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
from amt.locate import Finder, Located
from amt.locate.sides import in_doubt, word
from amt.locate.squares import SETTLED, moved, next_box, on_grid
from amt.model.locator import same_hand

if TYPE_CHECKING:
    from amt.infer.predictor import Predictor, Request

LOCATED = "located"  # Result.box_source
# Hands below the finder's threshold. Chosen on 512 pictures of people who were not trained on, and 300 without a hand: 6 hands
# and 3 false ones more in the 512, none in the 300 (docs/log.md, 29 November 2026).
UNSURE = 0.2  # least score of what the model decides on
CONFIRMED = 0.06  # 0-1: share of the crop that a joint's map may cover there
OTHER = {"right": "left", "left": "right"}


def predict_hands(predictor: Predictor, requests: Sequence[Request], side: str | None = None) -> list[list[Result]]:
    """All hands of each picture, the surest first; [] for a picture without one.

    A request with a box, and any request of a predictor without a finder, has one answer, as ``predict_many`` gives it.

    Args:
        side: of every hand, where it is known; None: the finder's word.
    """
    finder = predictor.finder
    looked_for = [request.box is None and finder is not None for request in requests]
    searched = [request for request, wanted in zip(requests, looked_for) if wanted]
    found = finder.locate_many([request.image for request in searched]) if searched else []
    hands = iter(
        located_hands(predictor, [(request, of_picture, side) for request, of_picture in zip(searched, found)])
    )
    given = iter(predictor.predict_many([request for request, wanted in zip(requests, looked_for) if not wanted]))
    return [next(hands) if wanted else [next(given)] for wanted in looked_for]


def located_hands(
    predictor: Predictor, pictures: Sequence[tuple[Request, Sequence[Located], str | None]]
) -> list[list[Result]]:
    """The hands of each picture where a finder saw them, in its order.

    A square that the joints do not fit is replaced by theirs, once. Where the side is in doubt, both are looked at so. A hand
    that the finder is not sure of counts where the model's maps are narrow and no other answer has its place.

    Args:
        pictures: each picture's request, what the finder saw in it, and the side of its hands where it is known.
    """
    hands = [(request, hand, side) for request, found, side in pictures for hand in found]
    looks: list[tuple[int, Request]] = []
    for k, (request, hand, side) in enumerate(hands):
        both = side is None and in_doubt(hand.odds)
        for one in (hand.side, OTHER[hand.side]) if both else (side or hand.side,):
            looks.append((k, replace(request, box=on_grid(hand.box), near=None, side=one)))
    sides: list[dict[str, Result]] = [{} for _ in hands]
    for (k, _), result in zip(looks, _settled(predictor, [request for _, request in looks])):
        sides[k][result.side] = result
    answers = iter([as_located(_surer(hand.odds, results)) for (_, hand, _), results in zip(hands, sides)])
    return [_counted([(hand, next(answers)) for hand in found]) for _, found, _ in pictures]


def _settled(predictor: Predictor, requests: Sequence[Request]) -> list[Result]:
    """The answers to requests with squares; to those whose joints ask for another square, in that one."""
    results = predictor.predict_many(requests)
    squares = {}
    for k, (request, result) in enumerate(zip(requests, results)):
        square = on_grid(next_box(result.joints_2d, *request.image.shape[:2], predictor.box_scale))
        if np.isfinite(result.joints_2d).all() and moved(request.box, square) >= SETTLED:
            squares[k] = square
    again = predictor.predict_many([replace(requests[k], box=square) for k, square in squares.items()])
    for k, result in zip(squares, again):
        if np.isfinite(result.joints).all():
            results[k] = result
    return results


def _surer(odds: float, sides: dict[str, Result]) -> Result:
    """Of one look, or of one from each side, the one that the finder's odds of a right hand (nats) and the maps speak for."""
    if len(sides) == 2:
        odds += word(sides["right"].doubt, sides["left"].doubt)
        return sides["right" if odds >= 0 else "left"]
    (result,) = sides.values()
    return result


def _counted(answers: Sequence[tuple[Located, Result]]) -> list[Result]:
    """The answers of one picture without those that the finder is not sure of and the model does not confirm."""
    places = [_tight(result) for hand, result in answers if hand.sure]
    kept = []
    for hand, result in answers:
        if not hand.sure:
            box = _tight(result)
            if not result.spread <= CONFIRMED or any(same_hand(box, place) for place in places):
                continue
            places.append(box)
        kept.append(result)
    return kept


def _tight(result: Result) -> np.ndarray:
    """float64 [4], px: left, top, right, bottom around the joints."""
    return np.concatenate((result.joints_2d.min(0), result.joints_2d.max(0))).astype(np.float64)


def from_both_sides(predictor: Predictor, asked: Sequence[tuple[Request, float | None]]) -> list[tuple[Result, float]]:
    """The answer to each request, and the model's word on the side (nats), 0 where it was not asked.

    Args:
        asked: requests, and the odds of a right hand (nats); None where the side is known.
    """
    doubtful = [k for k, (_, odds) in enumerate(asked) if odds is not None and in_doubt(odds)]
    own = predictor.predict_many([request for request, _ in asked])
    answers = [(result, 0.0) for result in own]
    # apart from the first looks, so that the sizes of batches stay those of the hands: each size has a trace of its own
    others = predictor.predict_many([replace(asked[k][0], side=OTHER[own[k].side]) for k in doubtful])
    for k, other in zip(doubtful, others):
        sides = {own[k].side: own[k], other.side: other}
        answers[k] = _surer(asked[k][1], sides), word(sides["right"].doubt, sides["left"].doubt)
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
