"""Every hand that a finder sees is answered, in Python, records and videos; which finder there is, and what else there is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from infer_files import write_image

from amt.infer.__main__ import main
from amt.infer.checks import InputError
from amt.infer.finder import choose_finder
from amt.infer.hands import HandsTracker, predict_hands
from amt.infer.predictor import Request, load
from amt.locate import Located, ModelLocator
from amt.locate.squares import SETTLED, moved, next_box, on_grid
from amt.model.checkpoint import CheckpointError, add_locator
from amt.model.locator import FoundHand, Locator, LocatorConfig
from amt.model.shipped_locator import shipped_locator

K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])
HANDS = [
    Located(np.array((100.0, 110.0, 80.0)), "left", 0.9, 0.8),
    Located(np.array((230.0, 130.0, 90.0)), "right", 0.7),
]


class Fixed:
    """Finds the same hands in every picture."""

    def __init__(self, hands):
        self.hands = hands

    def locate(self, image):
        return self.hands

    def locate_many(self, images):
        return [self.hands for _ in images]


@pytest.fixture
def seeing(checkpoint):
    """A predictor with a finder of two hands."""
    predictor = load(checkpoint, device="cpu")
    predictor.finder = Fixed(HANDS)
    return predictor


def test_without_boxes_every_hand_is_answered(seeing, photo):
    results = seeing(photo, K)
    assert [(r.side, r.box_source, r.hand_found) for r in results] == [
        ("left", "located", True),
        ("right", "located", True),
    ]
    for result, hand in zip(results, HANDS):
        first = seeing(photo, K, on_grid(hand.box), hand.side)
        square = on_grid(next_box(first.joints_2d, *photo.shape[:2], seeing.box_scale))
        assert moved(np.array(hand.box, float), square) > SETTLED  # the joints ask for another square
        np.testing.assert_array_equal(result.box, square)
        again = seeing(photo, K, result.box, hand.side).joints  # alone: a batch of four looks rounds otherwise
        np.testing.assert_allclose(result.joints, again, atol=1e-4)
    assert [[r.side for r in of_image] for of_image in seeing([photo, photo], K)] == [["left", "right"]] * 2


def test_some_images_with_boxes_and_some_without_are_one_line(seeing, photo):
    with pytest.raises(InputError, match="boxes: an image has None; give boxes for every image, or for none"):
        seeing([photo, photo], K, [None, (100.0, 110.0, 80.0)])


def test_a_side_may_be_known_of_some_images(seeing, photo):
    told = [[result.side for result in of_image] for of_image in seeing([photo] * 3, K, side=[None, "left", "right"])]
    assert told == [["left", "right"], ["left"] * 2, ["right"] * 2]


def test_squares_on_the_grid_hide_what_batches_change():
    for square in ((100.3, 50.2, 80.4), (300.0, 200.0, 200.0), (31.0, 22.2, 24.0)):
        there = on_grid(square)
        assert np.abs(there - square).max() <= square[2] / 128
        same = [(on_grid(there + shake) == there).all() for shake in np.linspace(-0.1, 0.1, 9)[:, None] * np.ones(3)]
        assert all(same)


def test_a_square_that_the_joints_fit_is_looked_at_once(seeing, photo, monkeypatch):
    first = seeing(photo, K, HANDS[0].box, HANDS[0].side)
    fitting = on_grid(next_box(first.joints_2d, *photo.shape[:2], seeing.box_scale))
    predict, asked = seeing.predict_many, []

    def predict_many(requests):
        """The joints of the first look, wherever it looks."""
        asked.extend(request.box for request in requests)
        return [replace(r, joints_2d=first.joints_2d) for r in predict(requests)]

    monkeypatch.setattr(seeing, "predict_many", predict_many)
    for away, looks in ((0, 1), (0.03, 1), (0.08, 2)):
        square = fitting + np.array((away * fitting[2], 0, 0))
        asked.clear()
        seeing.finder = Fixed([replace(HANDS[0], box=square, side_score=0.999)])
        (result,) = seeing(photo, K)
        assert len(asked) == looks
        np.testing.assert_array_equal(result.box, fitting if looks == 2 else on_grid(square))


@pytest.mark.parametrize(("spread", "beside", "counted"), [(0.05, 300.0, 2), (0.07, 300.0, 1), (0.05, 5.0, 1)])
def test_a_hand_that_the_finder_is_not_sure_of_counts_where_the_model_confirms_it(
    seeing, photo, monkeypatch, spread, beside, counted
):
    """And where it is not a second answer about a surer one."""
    sure, unsure = replace(HANDS[1], side_score=0.999), replace(HANDS[0], side_score=0.999, sure=False)
    predict = seeing.predict_many

    def predict_many(requests):
        """Joints in the squares' place, the unsure hand's so many px beside the sure one's; maps that are narrow for that one."""
        answers = []
        for request, result in zip(requests, predict(requests)):
            is_sure = request.side == "right"
            left = 200 + (0 if is_sure else beside)
            joints = np.linspace((left, 100), (left + 60, 160), 21)
            answers.append(replace(result, joints_2d=joints, spread=0.9 if is_sure else spread))
        return answers

    monkeypatch.setattr(seeing, "predict_many", predict_many)
    seeing.finder = Fixed([sure, unsure])
    assert [result.side for result in seeing(photo, K)] == ["right", "left"][:counted]
    assert [result.side for result in predict_hands(seeing, [Request(photo, K)])[0]] == ["right", "left"][:counted]
    tracker = HandsTracker(seeing, seeing.finder, smooth=False)
    assert [result.side for _, result in tracker.next(Request(photo, K), 0.0)] == [
        "right"
    ]  # a video asks for sure ones


def surer_of(monkeypatch, predictor, side):
    """Makes the predictor's maps narrow where it is asked for this side, and counts what it is asked."""
    predict, asked = predictor.predict_many, []

    def predict_many(requests):
        asked.extend(request.side for request in requests)
        return [replace(r, doubt=1.0 if r.side == side else 2.0) for r in predict(requests)]

    monkeypatch.setattr(predictor, "predict_many", predict_many)
    return asked


@pytest.mark.parametrize(("score", "answered", "looks"), [(0.8, "right", 2), (0.999, "left", 1)])
def test_a_side_in_doubt_is_the_one_that_the_model_is_surer_of(seeing, photo, monkeypatch, score, answered, looks):
    seeing.finder = Fixed([replace(HANDS[0], side_score=score)])
    asked = surer_of(monkeypatch, seeing, "right")
    monkeypatch.setattr("amt.infer.hands.SETTLED", np.inf)
    (result,) = seeing(photo, K)
    assert (result.side, len(asked)) == (answered, looks)
    (given,) = seeing(photo, K, side="left")
    assert (given.side, len(asked)) == ("left", looks + 1)


def test_the_side_of_a_followed_hand_settles(seeing, photo, monkeypatch):
    """In doubt both sides are looked at; the model's word adds up with the finder's until there is none left."""
    seeing.finder = Fixed([replace(HANDS[0], side_score=0.6)])
    asked = surer_of(monkeypatch, seeing, "right")
    tracker = HandsTracker(seeing, seeing.finder, smooth=False)
    looks = []
    for k in range(4):
        ((_, result),) = tracker.next(Request(photo, K), k / 30)
        assert result.side == "right"
        looks.append(len(asked))
    assert looks == [2, 4, 5, 6]


def test_no_hand_is_an_empty_answer(seeing, photo):
    seeing.finder = Fixed([])
    assert seeing(photo, K) == []


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 640, 3), (480, 0, 3), (7, 640, 3)])
@pytest.mark.parametrize("kind", [np.array, lambda a: [a], torch.from_numpy], ids=["array", "list", "tensor"])
def test_a_picture_that_shows_nothing_is_the_same_error_with_and_without_boxes(seeing, shape, kind):
    seeing.finder = ModelLocator(shipped_locator())
    image, told = kind(np.zeros(shape, np.uint8)), []
    for boxes in (None, [(1, 1, 9)]):
        with pytest.raises(InputError, match="image: expected at least 8 x 8 pixels, got") as caught:
            seeing(image, boxes=boxes if boxes is None or not isinstance(image, list) else [boxes])
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_a_video_keeps_numbers_and_smooths(seeing, photo):
    smooth, raw = (HandsTracker(seeing, seeing.finder, smooth=s) for s in (True, False))
    rng = np.random.default_rng(0)
    answers = {True: [], False: []}
    for k in range(6):
        image = np.clip(photo + rng.normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
        for tracker, kind in ((smooth, True), (raw, False)):
            answers[kind].append(tracker.next(Request(image, K), k / 30))
    assert all(
        [number for number, _ in frame] == [number for number, _ in answers[False][0]] for frame in answers[False]
    )
    paths = {kind: np.stack([frame[0][1].joints for frame in frames]) for kind, frames in answers.items()}
    shake = {kind: np.linalg.norm(np.diff(path, n=2, axis=0), axis=-1).mean() for kind, path in paths.items()}
    assert shake[True] < shake[False]


def locator_that_sees(*hands):
    locator = Locator(LocatorConfig(threshold=0.4))
    locator.find = lambda images, threshold=None: [list(hands)] * len(images)
    return locator


def test_a_locator_speaks_in_the_pictures_pixels():
    """192 x 144 px of the network are 640 x 480 of the picture."""
    finder = ModelLocator(locator_that_sees(FoundHand((29.5, 59.5, 59.5, 80.5), 0.8, 0.1)), box_scale=1.5)
    (hand,) = finder.locate(np.zeros((480, 640, 3), np.uint8))
    np.testing.assert_allclose(hand.tight, (99.5, 199.5, 199.5, 269.5), atol=1e-6)
    np.testing.assert_allclose(hand.box, (149.5, 234.5, 150), atol=1e-4)
    assert (hand.side, hand.score, hand.side_score) == ("left", 0.8, pytest.approx(0.9))


@pytest.mark.shipped_locator
def test_a_checkpoint_without_a_locator_has_the_one_that_ships(checkpoint, photo):
    predictor = load(checkpoint, device="cpu")
    assert predictor.finder.network.config == shipped_locator().config
    assert predictor(photo, K) == []


@pytest.fixture
def own(checkpoint, tmp_path):
    """A copy of the checkpoint, to put a locator into."""
    import shutil

    return shutil.copytree(checkpoint, tmp_path / "own")


@pytest.mark.shipped_locator
@pytest.mark.parametrize(("recall", "used"), [(0.95, True), (0.62, False)])
def test_a_locator_that_finds_too_little_gives_way_to_the_one_that_ships(own, recall, used):
    torch.manual_seed(0)
    add_locator(own, Locator(), {"recall": recall})
    finder = load(own, device="cpu").finder
    assert (finder.network.config == LocatorConfig()) == used
    assert (finder.network.config == shipped_locator().config) != used
    assert load(own, device="cpu", locator="window").finder is None


def test_a_broken_locator_is_an_error(own):
    add_locator(own, Locator(), {"recall": 0.95})
    record = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(record | {"locator": {"width": 3}}))
    with pytest.raises(CheckpointError, match="its locator does not fit"):
        load(own, device="cpu")


def test_the_command_names_what_is_wrong_with_mediapipes_files(checkpoint, picture, tmp_path, capsys):
    words = [str(checkpoint), str(picture), "--out", str(tmp_path / "out"), "--fov", "60"]
    assert main([*words, "--locator", "mediapipe", f"infer.mediapipe={tmp_path / 'none.whl'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "none.whl: no such file; give infer.mediapipe=FILE" in error
    assert main([*words, "infer.locator=eyes"]) == 2
    assert "infer.locator must be one of model, mediapipe, window" in capsys.readouterr().err


@pytest.mark.parametrize("hands", [HANDS, []])
def test_records_have_a_line_for_each_hand(checkpoint, photo, tmp_path, monkeypatch, hands):
    monkeypatch.setattr("amt.infer.predictor.choose_finder", lambda *_: Fixed(hands))
    paths = [write_image(tmp_path / f"{k}.png", photo) for k in range(2)]
    for name, extra in (("images", []), ("video", ["--video", "12"])):
        out = tmp_path / name
        assert main([str(checkpoint), *map(str, paths), "--out", str(out), "--fov", "60", *extra]) == 0
        lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert len(lines) == 2 * max(len(hands), 1)
        assert all(line["hand_found"] == bool(hands) for line in lines)
        if hands and name == "video":
            assert [line["hand"] for line in lines] == [0, 1, 0, 1]
            assert {line["hand"]: line["side"] for line in lines} == {0: "left", 1: "right"}
        drawn = list(out.glob("*.png" if name == "images" else "overlay.mp4"))
        assert drawn


def test_a_given_side_stands_over_the_finders(seeing, photo):
    assert [r.side for r in seeing(photo, K, side="left")] == ["left", "left"]


def test_a_request_with_a_box_is_answered_as_before(seeing, photo):
    ((result,),) = predict_hands(seeing, [Request(photo, K, (160, 120, 100))])
    assert result.box_source == "given"
    assert len(predict_hands(seeing, [replace(Request(photo, K), side="right")])[0]) == 2


def test_the_window_search_can_be_chosen(checkpoint):
    assert choose_finder("window", checkpoint, 1.5, "cpu") is None


def test_a_hand_that_the_finder_sees_is_there_however_unsure_the_model_is(unsure_checkpoint, photo):
    predictor = load(unsure_checkpoint, device="cpu")
    predictor.finder = Fixed(HANDS)
    tracker = HandsTracker(predictor, predictor.finder)
    frames = [tracker.next(Request(photo, K), k / 30) for k in range(6)]
    assert [[number for number, _ in hands] for hands in frames] == [[0, 1]] * 6
    assert all(result.hand_found for hands in frames for _, result in hands)
    predictor.finder.hands = []
    assert tracker.next(Request(photo, K), 0.2) == []
