"""Hands in a video: numbers and sides are kept, lost hands are found again, and the whole picture is searched now and then."""

from dataclasses import dataclass

import numpy as np
import pytest

from amt.infer.tracks import EVERY, KEPT, YOUNG, HandTracks, follow
from amt.locate import Located

HEIGHT, WIDTH = 480, 640
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


@dataclass
class Seen:
    joints_2d: np.ndarray
    hand_found: bool


class World:
    """Hands that a test moves, a finder that sees them, and a model that sees the one nearest to its square."""

    def __init__(self, **hands):
        self.hands = hands  # name: (x, y, side)
        self.hidden, self.blind, self.word, self.looks = set(), False, 0.99, 0

    def locate(self, image):
        self.looks += 1
        visible = [h for n, h in self.hands.items() if n not in self.hidden]
        return (
            []
            if self.blind
            else [
                Located(
                    np.array((x, y, 90.0)),
                    side if self.word >= 0.5 else {"right": "left", "left": "right"}[side],
                    0.9,
                    max(self.word, 1 - self.word),
                )
                for x, y, side in visible
            ]
        )

    def predict(self, tracks):
        return [self._see(track.box) for track in tracks]

    def _see(self, box):
        visible = [h for n, h in self.hands.items() if n not in self.hidden]
        near = min(visible, key=lambda h: np.hypot(*(box[:2] - h[:2])), default=None)
        if near is None or np.hypot(*(box[:2] - near[:2])) > 0.5 * box[2]:
            return Seen(np.full((21, 2), 300.0), False)
        ring = np.linspace(0, 2 * np.pi, 21, endpoint=False)
        return Seen(near[:2] + 30 * np.stack([np.cos(ring), np.sin(ring)], 1), True)

    def frame(self, tracks):
        return {
            t.number: (t.side, r.joints_2d.mean(0).round().tolist()) for t, r in follow(tracks, IMAGE, self.predict)
        }


def two_hands():
    world = World(a=np.array([200, 200, 0]), b=np.array([450, 250, 0]))
    world.hands = {"a": (200, 200, "right"), "b": (450, 250, "left")}
    return world, HandTracks(world)


def test_every_hand_is_answered_with_a_number_and_a_side():
    world, tracks = two_hands()
    assert world.frame(tracks) == {0: ("right", [200, 200]), 1: ("left", [450, 250])}


def test_numbers_stay_with_hands_that_move():
    world, tracks = two_hands()
    for k in range(40):
        world.hands = {"a": (200 + 5 * k, 200, "right"), "b": (450 - 5 * k, 330, "left")}  # they pass each other
        answers = world.frame(tracks)
        assert answers[0] == ("right", [200 + 5 * k, 200])
        assert answers[1] == ("left", [450 - 5 * k, 330])


def test_the_whole_picture_is_searched_at_first_and_then_every_fourth_frame():
    world, tracks = two_hands()
    for _ in range(YOUNG):
        world.frame(tracks)
    assert world.looks == YOUNG
    for _ in range(10 * EVERY):
        world.frame(tracks)
    assert world.looks == YOUNG + 10


def test_a_lost_hand_keeps_its_number_and_side_when_it_comes_back_elsewhere():
    world, tracks = two_hands()
    for _ in range(6):
        world.frame(tracks)
    world.hidden = {"b"}
    for _ in range(KEPT - 2):
        assert list(world.frame(tracks)) == [0]
    world.hidden, world.hands["b"] = set(), (500, 420, "left")
    assert world.frame(tracks)[1] == ("left", [500, 420])


def test_a_hand_that_is_gone_for_long_is_a_new_one():
    world, tracks = two_hands()
    world.frame(tracks)
    world.hidden = {"b"}
    for _ in range(KEPT + 2):
        world.frame(tracks)
    world.hidden = set()
    assert list([world.frame(tracks) for _ in range(EVERY)][-1]) == [0, 2]


def test_a_jump_is_found_in_the_same_frame():
    """The square of the frame before shows no hand; the whole picture is searched at once."""
    world, tracks = two_hands()
    for k in range(1, 10):
        world.frame(tracks)
        if k >= YOUNG and (k + 1) % EVERY:
            break
    before = world.looks
    world.hands["a"] = (330, 420, "right")
    assert world.frame(tracks) == {0: ("right", [330, 420]), 1: ("left", [450, 250])}
    assert world.looks == before + 1


def test_one_picture_does_not_change_a_side_but_many_do():
    world, tracks = two_hands()
    for _ in range(8):
        world.frame(tracks)
    world.word = 0.1  # the other side, surely
    for _ in range(EVERY):
        assert world.frame(tracks)[0][0] == "right"
    for _ in range(10 * EVERY):
        world.frame(tracks)
    assert world.frame(tracks)[0][0] == "left"


def test_a_given_side_stands_over_what_the_finder_says():
    world, _ = two_hands()
    tracks = HandTracks(world, side="left")
    assert [side for side, _ in world.frame(tracks).values()] == ["left", "left"]


def test_no_hand_is_no_answer_and_the_next_one_begins():
    world, tracks = two_hands()
    world.blind = True
    assert [world.frame(tracks) for _ in range(3)] == [{}] * 3
    world.blind = False
    assert len(world.frame(tracks)) == 2


def test_a_square_does_not_drift_with_the_error_of_the_joints():
    world, tracks = two_hands()
    world.hands.pop("b")

    def predict(asked):
        (track,) = asked
        ring = np.linspace(0, 2 * np.pi, 21, endpoint=False)
        middle = (200, 200) + 0.9 * (track.box[:2] - 200) + (2, -4)  # most of the square's error, and one of its own
        return [Seen(middle + 0.36 * track.box[2] * np.stack([np.cos(ring), np.sin(ring)], 1), True)]

    for _ in range(40):
        follow(tracks, IMAGE, predict)
        (track,) = tracks.tracks
        assert track.number == 0
        assert np.abs(track.box - (200, 200, 90)).max() < 9


def test_a_square_that_jumps_is_replaced_by_the_finders_in_the_next_frame():
    """A wrong square makes joints that ask for a worse one: nobody waits for the finder's turn."""
    world, tracks = two_hands()
    world.hands.pop("b")
    for _ in range(YOUNG + 1):
        world.frame(tracks)
    looks, (track,) = world.looks, tracks.tracks
    see = world._see
    world._see = lambda box: Seen(200 + 1.4 * (see(box).joints_2d - 200), True)
    world.frame(tracks)
    assert track.unsteady
    assert track.box[2] > 110
    assert world.looks == looks
    world._see = see
    asked = []
    follow(tracks, IMAGE, lambda of: asked.extend(t.box.copy() for t in of) or world.predict(of))
    assert world.looks == looks + 1
    np.testing.assert_allclose(asked, [(200, 200, 90)])
    assert not track.unsteady


def test_what_the_model_does_not_confirm_is_no_hand():
    """The finder sees a hand where the model sees none: no answer, and no number is used up for long."""
    world, tracks = two_hands()
    world.predict = lambda tracks: [Seen(np.full((21, 2), np.nan), False) for _ in tracks]
    for _ in range(5):
        assert world.frame(tracks) == {}
    assert len(tracks.tracks) == 0


@pytest.mark.parametrize("gap", [0, 20])
def test_two_tracks_at_one_hand_become_one(gap):
    world, tracks = two_hands()
    world.frame(tracks)
    world.hands = {"a": (200, 200, "right")}
    tracks.tracks[1].box = np.array((200.0 + gap, 200.0, 90.0))
    world.frame(tracks)
    assert len([t for t in tracks.tracks if not t.lost]) == 1
