"""MediaPipe's models as a finder: where their files come from, and what their answers mean. A stub answers in their place."""

import sys
import types
import zipfile

import numpy as np
import pytest

from amt.locate import open_locator
from amt.locate.mediapipe import (
    CROP,
    FILES,
    PALM,
    MediaPipeError,
    MediaPipeLocator,
    anchors,
    decode,
    hand_warp,
    merged,
    read_models,
)

PICTURE = (480, 640)  # px: height, width
MIDDLE, SIDE = np.array((400.0, 300.0)), 60.0  # px: a palm in it, upright
UPRIGHT = np.concatenate([[(-0.5, -0.5), (0.5, 0.5), (0, 0.5), (0, 0), (0, -0.5)], np.zeros((4, 2))])
PALM_POINTS = MIDDLE + SIDE * UPRIGHT  # box, then wrist, any, middle finger, any


class StubInterpreter:
    """Finds one palm, at the anchor next to it, and a hand whose landmarks fill the middle half of the crop."""

    palms = 1
    presence = 0.9
    handedness = 0.8

    def __init__(self, model_content, num_threads):
        self.is_palm = model_content == b"palm"
        if model_content not in (b"palm", b"hand"):
            raise ValueError("not\na model")

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [{"index": 0, "shape": np.array([1, *([PALM] * 2 if self.is_palm else [CROP] * 2), 3])}]

    def get_output_details(self):
        return [{"index": k} for k in range(2 if self.is_palm else 4)]

    def set_tensor(self, index, value):
        assert (value.dtype, value.ndim) == (np.float32, 4)
        assert value.max() <= 1
        self.seen = value

    def invoke(self):
        pass

    def get_tensor(self, index):
        if not self.is_palm:
            landmarks = np.zeros((21, 3), np.float32)
            landmarks[:, :2] = CROP / 2 + CROP / 4 * np.linspace(-1, 1, 21)[:, None] - 0.5
            return [
                landmarks.reshape(1, 63),
                np.float32([[self.presence]]),
                np.float32([[self.handedness]]),
                landmarks,
            ][index]
        scale = PALM / PICTURE[1]
        small = (PALM_POINTS + 0.5) * scale + (0, (PALM - scale * PICTURE[0]) / 2)
        middles = anchors() * PALM
        best = int(np.linalg.norm(middles - small[:2].mean(0), axis=1).argmin())
        raw = np.zeros((1, 2016, 18), np.float32)
        raw[0, best, :2] = small[:2].mean(0) - middles[best]
        raw[0, best, 2:4] = small[1] - small[0]
        raw[0, best, 4:] = (small[2:] - middles[best]).ravel()
        logits = np.full((1, 2016, 1), -20, np.float32)
        logits[0, best] = 3 if self.palms else -3
        return (raw, logits)[index]


@pytest.fixture
def stub(monkeypatch):
    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = type("Interpreter", (StubInterpreter,), {})
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    return module.Interpreter


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "mediapipe-0.10.21-cp312-cp312-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"mediapipe/modules/palm_detection/{FILES[0]}", b"palm")
        archive.writestr(f"mediapipe/modules/hand_landmark/{FILES[1]}", b"hand")
    return path


def test_files_come_out_of_a_wheel_or_a_folder(wheel, tmp_path):
    assert read_models(wheel) == (b"palm", b"hand")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert read_models(tmp_path / "unpacked") == (b"palm", b"hand")


def test_a_palm_leads_to_its_hand(stub, wheel):
    finder = open_locator("mediapipe", mediapipe=wheel)
    (hand,) = finder.locate(np.zeros((*PICTURE, 3), np.uint8))
    # the hand's square: 2.6 palms wide, half a palm further up; the landmarks fill its middle half
    middle, half = MIDDLE - (0, 0.5 * SIDE), 2.6 * SIDE / 4
    np.testing.assert_allclose(hand.tight, [*(middle - half), *(middle + half)], atol=1.0)
    np.testing.assert_allclose(hand.box, [*middle, 2 * half * 1.5], atol=1.0)
    assert (hand.side, hand.score) == ("right", pytest.approx(0.9))
    assert hand.side_score == pytest.approx(0.8)
    box, side, score = hand
    assert (side, score) == (hand.side, hand.score)
    assert box is hand.box


def test_an_unlikely_right_hand_is_a_left_one(stub, wheel):
    stub.handedness = 0.1
    (hand,) = MediaPipeLocator(wheel).locate(np.zeros((*PICTURE, 3), np.uint8))
    assert (hand.side, hand.side_score) == ("left", pytest.approx(0.9))


@pytest.mark.parametrize("missing", ["palms", "presence"])
def test_no_palm_or_no_hand_at_it_is_no_hand(stub, wheel, missing):
    setattr(stub, missing, 0)
    assert MediaPipeLocator(wheel).locate_many([np.zeros((*PICTURE, 3), np.uint8)] * 2) == [[], []]


def test_anchors_are_those_of_the_published_graph():
    middles = anchors()
    assert middles.shape == (2016, 2)
    np.testing.assert_allclose(
        middles[[0, 1, 2, 48]], [[0.5 / 24, 0.5 / 24]] * 2 + [[1.5 / 24, 0.5 / 24], [0.5 / 24, 1.5 / 24]]
    )
    np.testing.assert_allclose(middles[1152:1158], [[0.5 / 12, 0.5 / 12]] * 6)


def test_palms_that_overlap_become_their_weighted_mean():
    one = decode(np.float32([[0, 0, 40, 40, *[0] * 14]]), np.array([[0.5, 0.5]]))
    palms = np.concatenate([one, one + 0.02, one + 0.6])
    together, scores = merged(palms, np.array([0.6, 0.9, 0.7]))
    np.testing.assert_allclose(together, [one[0] + 0.02 * 0.6, one[0] + 0.6])
    np.testing.assert_allclose(scores, [0.9, 0.7])


@pytest.mark.parametrize("degrees", [0, 30, 90, 200, -75])
def test_a_turned_hand_stands_upright_in_its_crop(degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    palm = MIDDLE + SIDE * UPRIGHT @ turn.T
    palm[:2] = MIDDLE + SIDE * UPRIGHT[:2]  # the box is the axes'
    warp = hand_warp(palm)
    crop = palm @ warp[:, :2].T + warp[:, 2]
    wrist, finger = crop[2], crop[4]
    assert finger[0] == pytest.approx(wrist[0], abs=1e-6)
    assert wrist[1] - finger[1] == pytest.approx(CROP / 2.6)
    assert crop[3, 1] == pytest.approx(
        (CROP - 1) / 2 + 0.5 * CROP / 2.6
    )  # the palm's middle is half a palm below the crop's


def test_what_is_missing_is_one_line_with_the_remedy(wheel, tmp_path, monkeypatch):
    newer = tmp_path / "mediapipe-1.2.2-any.whl"
    with zipfile.ZipFile(newer, "w") as archive:
        archive.writestr("mediapipe/__init__.py", "")
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"PK")
    for source, words in (
        (tmp_path / "none.whl", "no such file"),
        (newer, f"holds no {FILES[0]}"),
        (broken, "not a wheel"),
    ):
        with pytest.raises(MediaPipeError, match=f"{words}.*pip download mediapipe==0.10.21"):
            read_models(source)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MediaPipeError, match=r"models are not here: give infer\.mediapipe=FILE"):
        read_models(None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(
        MediaPipeError, match=r"ai-edge-litert, which is not installed; pip install -e '\.\[mediapipe\]'"
    ):
        MediaPipeLocator(wheel)


def test_files_that_are_no_models_are_one_line(stub, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes(b"other")
    with pytest.raises(MediaPipeError, match=r"palm_detection_full.tflite cannot be run \(not a model\)"):
        MediaPipeLocator(tmp_path)
