"""Several hands over the frames of a video: where to look for each, which is which, and which side it is.

A hand is looked for where it was in the frame before, moved on as it moved. A square that follows the model's joints alone
drifts, for their error grows with the square's. How far the finder's square lies from the joints' one is therefore kept until
the finder's next word, and added. The finder looks at the whole picture in the first frames of a hand, in every fourth frame,
after a square has jumped, which it then replaces, and in any frame in which no hand is followed or one is lost. A hand that it
sees is there, however unsure the model is of its joints; in the other frames the model's word decides. What the finder sees
belongs to the track that lies there, else to a lost one of that side, which so keeps its number, else to a new track. Its word
on the side is summed up over time, and the model's while it is in doubt (:mod:`amt.locate.sides`): a single doubtful picture
does not change a hand's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from amt.locate import Finder, Located
from amt.locate.sides import in_doubt
from amt.locate.squares import moved, next_box

EVERY = 4  # frames between two looks at the whole picture
YOUNG = 4  # frames at a track's beginning, in each of which the whole picture is looked at
KEPT = 30  # frames for which a lost hand's number is kept
NEAR = 0.5  # of the larger square's side: squares whose middles are nearer are of one hand
GONE_ASTRAY = 0.35  # a followed square that is farther from the found one (of its side) is replaced
NEW_OFFSET = 0.5  # share of the finder's last word in how far its square lies from the joints'
UNSTEADY = (
    0.2  # a square that moves or grows by more than this share of its side is checked by the finder in the next frame
)
MOST_ODDS = 3.0  # of one picture's word on the side, nats
LARGEST_OFFSET = 0.7  # in the units of Track.offset
LARGEST_ODDS = 12.0  # of the sum
MOST_HANDS = 4


@dataclass(eq=False)
class Track:
    """One hand's history."""

    number: int  # its identity, from 0
    box: np.ndarray  # float64 [3], px: where to look in the next frame
    odds: float  # nats: above 0 for a right hand
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # px a frame
    offset: np.ndarray | None = (
        None  # of the finder's square from the joints': x, y in sides of it, log of the sides' ratio
    )
    located: np.ndarray | None = None  # px, float64 [3]: the finder's square in this frame
    seen: int = 0  # frames in which it was found
    lost: int = 0  # frames since it was found; 0: followed
    unsteady: bool = False  # its square has just jumped: a wrong one makes joints that ask for a worse one

    @property
    def confirmed(self) -> bool:
        """The finder sees it in this frame."""
        return self.located is not None

    @property
    def side(self) -> str:
        return "right" if self.odds >= 0 else "left"


class HandTracks:
    """Call :meth:`look` with each frame, look into the squares that it gives, and tell :meth:`update` what was seen there.

    Args:
        finder: of hands in whole pictures.
        side: the side of every hand, where it is known; None: the finder's word.
        scale: side of the square over the longest side of the joints' tight box.
    """

    def __init__(self, finder: Finder, side: str | None = None, scale: float = 1.5):
        self.finder, self.known_side, self.scale = finder, side, scale
        self.tracks: list[Track] = []
        self._frame, self._next, self._located = 0, 0, False

    def look(self, image: np.ndarray) -> list[Track]:
        """The hands to look for in a frame, uint8 [H, W, 3]: followed ones and what the finder adds."""
        self._frame += 1
        for track in self.tracks:
            track.located = None
        young = any(track.seen < YOUNG for track in self.tracks)
        lost = any(track.lost for track in self.tracks)
        unsteady = any(track.unsteady for track in self.tracks)
        self._located = not self.tracks or young or lost or unsteady or self._frame % EVERY == 0
        if self._located:
            self._assign(self._find(image))
        return [track for track in self.tracks if not track.lost]

    def look_again(self, image: np.ndarray) -> list[Track]:
        """Where hands that :meth:`update` has just lost may be: the finder's word, unless this frame had it already."""
        if self._located or not any(track.lost == 1 for track in self.tracks):
            return []
        before = {track.number for track in self.tracks if not track.lost}
        self._located = True
        self._assign(self._find(image))
        return [track for track in self.tracks if not track.lost and track.number not in before]

    def in_doubt(self, track: Track) -> bool:
        """Whether the model should look at the hand from both sides."""
        return self.known_side is None and in_doubt(track.odds)

    def hear(self, track: Track, word: float) -> None:
        """Adds the model's word on the side (nats, above 0 for a right hand)."""
        track.odds = _added(track.odds, word)

    def update(self, track: Track, joints: np.ndarray, found: bool, height: int, width: int) -> None:
        """Says what was seen in a track's square: joints [21, 2] (px), or no hand."""
        if not found or not np.isfinite(joints).all():
            track.lost = max(track.lost, 1)
            return
        box = _corrected(track, next_box(joints, height, width, self.scale))
        track.unsteady = moved(track.box, box) > UNSTEADY
        if track.seen:
            step = box[:2] - (track.box[:2] - track.velocity)
            track.velocity = np.clip(0.5 * track.velocity + 0.5 * step, -box[2] / 4, box[2] / 4)
        track.seen, track.lost = track.seen + 1, 0
        track.box = np.array([*np.clip(box[:2] + track.velocity, 0, (width - 1, height - 1)), box[2]])

    def end_frame(self) -> None:
        """Forgets hands that are lost for too long, and the younger of two tracks that are at one hand."""
        for track in self.tracks:
            track.lost += track.lost > 0
        self.tracks = [track for track in self.tracks if track.lost <= KEPT and (track.seen or not track.lost)]
        kept: list[Track] = []
        for track in sorted(self.tracks, key=lambda t: (-t.seen, t.number)):
            if track.lost or not any(_together(track, other) for other in kept if not other.lost):
                kept.append(track)
        self.tracks = sorted(kept, key=lambda t: t.number)

    def _find(self, image: np.ndarray) -> list[Located]:
        return [hand for hand in self.finder.locate(image) if hand.sure]

    def _assign(self, located: Sequence[Located]) -> None:
        free = list(self.tracks)
        for hand in located[:MOST_HANDS]:
            track = self._nearest(free, hand)
            if track is None:
                if len([t for t in self.tracks if not t.lost]) >= MOST_HANDS:
                    continue
                track = Track(self._next, hand.box.copy(), 0.0)
                self._next += 1
                self.tracks.append(track)
            else:
                free.remove(track)
                away = np.abs(track.box - hand.box).max() > GONE_ASTRAY * hand.box[2]
                if track.lost or track.unsteady or away:
                    track.box, track.velocity, track.lost = hand.box.copy(), np.zeros(2), 0
            track.odds, track.located = self._odds(track, hand), hand.box

    def _nearest(self, free: list[Track], hand: Located) -> Track | None:
        """The track that a found hand belongs to: one that lies there, else the last lost one of its side."""
        there = [t for t in free if _distance(t.box, hand.box) < NEAR]
        if there:
            return min(there, key=lambda t: _distance(t.box, hand.box))
        lost = [t for t in free if t.lost and t.side == (self.known_side or hand.side)]
        return min(lost, key=lambda t: (t.lost, _distance(t.box, hand.box)), default=None)

    def _odds(self, track: Track, hand: Located) -> float:
        if self.known_side is not None:
            return 1.0 if self.known_side == "right" else -1.0
        return _added(track.odds, hand.odds)


def follow(tracks: HandTracks, image: np.ndarray, predict: Callable[[list[Track]], list]) -> list[tuple[Track, object]]:
    """One frame of a video: each hand that was found, with its track.

    Args:
        predict: gives, for each track, a result with ``joints_2d`` and ``hand_found``, from its square and side.
    """
    height, width = image.shape[:2]
    answers = []
    for asked in (tracks.look(image), None):
        asked = tracks.look_again(image) if asked is None else asked
        if not asked:
            continue
        for track, result in zip(asked, predict(asked)):
            tracks.update(track, result.joints_2d, result.hand_found, height, width)
            if result.hand_found:
                answers.append((track, result))
    tracks.end_frame()
    return [(track, result) for track, result in answers if track in tracks.tracks]


def _added(odds: float, word: float) -> float:
    return float(np.clip(odds + np.clip(word, -MOST_ODDS, MOST_ODDS), -LARGEST_ODDS, LARGEST_ODDS))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of two squares' middles, as a share of the larger side."""
    return float(np.hypot(*(a[:2] - b[:2])) / max(a[2], b[2]))


def _corrected(track: Track, joints: np.ndarray) -> np.ndarray:
    """The joints' square where the finder would see it, px."""
    if track.located is not None:
        offset = np.array([*(track.located[:2] - joints[:2]) / joints[2], np.log(track.located[2] / joints[2])])
        offset = np.clip(offset, -LARGEST_OFFSET, LARGEST_OFFSET)
        track.offset = offset if track.offset is None else track.offset + NEW_OFFSET * (offset - track.offset)
    if track.offset is None:
        return joints
    return np.array([*(joints[:2] + track.offset[:2] * joints[2]), joints[2] * np.exp(track.offset[2])])


def _together(a: Track, b: Track) -> bool:
    return _distance(a.box, b.box) < 0.15 and max(a.box[2], b.box[2]) < 1.3 * min(a.box[2], b.box[2])
