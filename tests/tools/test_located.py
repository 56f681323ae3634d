"""`python -m tools.located`: a rendered video of two hands whose labels fit its pictures, and figures that say what they say."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amt.data.crops import square_around
from amt.infer.predictor import load
from amt.locate import Located
from amt.model import AMT, ModelConfig
from amt.model.checkpoint import save_checkpoint
from tools import located
from tools.two_hands import TwoHands, triples


@pytest.fixture(scope="module")
def video() -> TwoHands:
    pytest.importorskip("embreex")
    from tools.two_hands import two_hands

    return two_hands(3, 3, lift=False)


def shown(segments, pixels):
    """uint8: what the pictures show at the places [T, J, 2], those outside the picture left out."""
    at = np.round(pixels).astype(int)
    frame, joint = np.nonzero(((at >= 0) & (at < (640, 480))).all(-1))
    x, y = at[frame, joint].T
    return segments[frame, y, x]


def test_both_hands_are_where_their_labels_say(video):
    """Where joints are projected the pictures show a hand or what it holds, beside them seldom a hand; the hands are apart."""
    assert video.images.shape == (3, 480, 640, 3)
    pixels = video.joints_2d()
    for hand in range(2):
        at, beside = (shown(video.segments, pixels[:, hand] + (shift, 0)) for shift in (0, 60))
        assert len(at) > 0.9 * 3 * 21
        assert (at > 0).mean() > 0.9
        assert (at == 255).mean() > 0.2  # the object hides many
        assert (at == 255).mean() > 4 * (beside == 255).mean()
    middles = video.joints.mean(2)
    assert np.linalg.norm(middles[:, 0] - middles[:, 1], axis=-1).min() > 0.15
    assert (pixels[:, 0, :, 0].mean() - pixels[:, 1, :, 0].mean()) > 60  # the right hand's place is at the right


def answer(joints, pixels, side="right"):
    return SimpleNamespace(joints=joints, joints_2d=pixels, side=side)


def test_answers_belong_to_the_hands_that_they_lie_on():
    rng = np.random.default_rng(0)
    hand = rng.uniform(0, 100, (21, 2))
    true = np.stack((hand, hand + np.array((300, 0))))
    answers = [(7, answer(None, true[1] + 9)), (4, answer(None, true[0] - 5)), (5, answer(None, true[0] + 30))]
    assert [a[0] for a in located.assigned(answers, true)] == [4, 7]
    assert located.assigned([(1, answer(None, hand + np.array((150, 0))))], true) == [None, None]
    assert located.assigned([], true) == [None, None]


def test_jitter_is_the_error_of_acceleration_over_frames_that_were_found():
    time = np.arange(6.0)[:, None, None, None]
    true = np.zeros((6, 2, 21, 3)) + 0.01 * time**2  # an acceleration of 20 mm / frame² along each axis
    pixels = np.arange(42.0).reshape(21, 2)[None, None] + np.array([0, 500])[None, :, None, None] * np.ones(
        (6, 1, 1, 1)
    )
    shaky = true + 0.001 * np.array([1, -1] * 3)[:, None, None, None] * (1, 0, 0)
    answers = [[(h, answer(shaky[k, h], pixels[k, h])) for h in range(2) if (k, h) != (2, 1)] for k in range(6)]
    joints, found = located.series(answers, pixels)
    assert found.sum(0).tolist() == [6, 5]
    errors = located.jitter_mm(joints, found, true)
    assert sorted(errors) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3)]
    np.testing.assert_allclose(list(errors.values()), 4.0)  # ±1, ∓2, ±1 mm
    assert [part.start for part in triples(np.array([1, 1, 0, 1, 1, 1, 1], bool))] == [3, 4]


def untrained(folder):
    torch.manual_seed(0)
    config = ModelConfig(size="tiny", crop_size=32)
    save_checkpoint(folder, AMT(config), data={"crop": {"num_points": 64}})
    return load(folder, "cpu", max_spread=1.0)


def test_a_video_is_followed_and_answered_frame_by_frame(video, tmp_path, capsys):
    """Labels that tremble by 4 mm stand for the network: all frames have both hands, with their sides and numbers."""
    predictor = untrained(tmp_path / "ck")
    pixels, known = video.joints_2d(), [image.tobytes() for image in video.images]

    class FromLabels:
        def locate_many(self, images):
            places = [pixels[known.index(image.tobytes())] for image in images]
            return [
                [Located(square_around(hand), side, 0.9) for hand, side in zip(place, ("right", "left"))]
                for place in places
            ]

        def locate(self, image):
            return self.locate_many([image])[0]

    def trembling(requests):
        """The untrained network's answers with the labels' joints of the hand in the square."""
        answers = []
        for request, result in zip(requests, predict(requests)):
            frame = known.index(request.image.tobytes())
            hand = int(np.argmin(np.linalg.norm(pixels[frame].mean(1) - request.box[:2], axis=1)))
            joints = video.joints[frame, hand] + 0.004 * (-1) ** frame * np.array((1, 0, 0))
            answers.append(replace(result, joints=joints.astype(np.float32), joints_2d=pixels[frame, hand]))
        return answers

    predict, predictor.predict_many, predictor.finder = predictor.predict_many, trembling, FromLabels()
    located.say_video(predictor, video)
    said = capsys.readouterr().out
    for name in ("followed", "a frame at a time"):
        assert re.search(rf"{name}: frames in which both hands are answered +1\.000", said)
        assert re.search(rf"{name}: side right +1\.000", said)
    assert re.search(r"followed: numbers that the two hands had +2 +goal <= 2: met", said)
    assert re.search(r"jitter of a frame at a time, the same triples +16\.00", said)  # ±4, ∓8, ±4 mm
    assert re.search(r"followed over a frame at a time +[\d.]+ +goal <= 1: (met|missed)", said)
    assert re.search(r"jitter of followed hands, mm / frame², 2 triples of frames +[\d.]+", said)


class Labels:
    """In a finder's place: the labels of a set's frames, known by their pictures; no hand in any other picture."""

    def __init__(self, reader):
        self.known = {reader[k].image().tobytes(): reader[k] for k in range(len(reader))}

    def locate_many(self, images):
        found = []
        for image in images:
            frame = self.known.get(image.tobytes())
            tight = None if frame is None else np.concatenate((frame.joints_2d.min(0), frame.joints_2d.max(0)))
            square = None if frame is None else square_around(frame.joints_2d)
            found.append([] if frame is None else [Located(square, frame.sequence.side, 0.9, 1.0, tight)])
        return found


def test_a_perfect_finder_meets_every_goal(tmp_path, capsys, monkeypatch):
    pytest.importorskip("embreex")
    from amt.data.config import DataConfig
    from amt.data.dexycb import DexYCB
    from amt.data.synthetic.write import SetConfig, write_set

    root = write_set(tmp_path / "set", SetConfig(sequences=1, frames=1, subjects=1, seed=3), workers=1, progress=False)
    reader = DexYCB(root, "s0", "train")
    monkeypatch.setattr(located, "open_reader", lambda data, subset: reader)
    predictor, labels = untrained(tmp_path / "ck"), Labels(reader)
    predict = predictor.predict_many

    def labelled(requests):
        frames = [labels.known[request.image.tobytes()] for request in requests]
        return [replace(r, joints_2d=frame.joints_2d) for r, frame in zip(predict(requests), frames)]

    predictor.finder, predictor.predict_many = labels, labelled
    located.say_frames(predictor, DataConfig(root=str(root)))
    said = capsys.readouterr().out
    assert "recall of the answers, 8 test frames" in said
    assert said.count(": met") == 3
    assert re.search(r"recall of the answers, [0-8] hands that cover 2 % of their box +1\.000", said)
    assert re.search(r"recall of the locator alone, above its threshold +1\.000", said)
    assert re.search(r"side right, of the hands answered +1\.000", said)


def test_the_share_of_a_box_that_a_hand_covers():
    segment = np.zeros((480, 640), np.uint8)
    segment[100:110, 200:240] = 255
    joints = np.full((21, 2), (200, 100), np.float32)
    joints[20] = (240, 120)
    frame = SimpleNamespace(joints_2d=joints, segment=lambda: segment)
    assert located.covered(frame) == pytest.approx(0.5)
