"""Benchmarks of a run: stages that add up, figures without labels that say what they say, engines that agree."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from infer_files import write_image, write_video

from amt.infer import benchmark
from amt.infer import predictor as predictors
from amt.infer.__main__ import main
from amt.infer.bench import MEANING, Figures, bone_lengths, clips_of, mediapipe_landmarks, table
from amt.infer.checks import InputError
from amt.infer.predictor import Predictor
from amt.locate import Located, ModelLocator
from amt.model.lean import bfloat16_is_slow

K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])
BOX = (180.0, 110.0, 120.0)


def test_the_stages_add_up_to_the_total(checkpoint, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "PICTURES", 6)
    monkeypatch.setattr(benchmark, "WARM_UP", 1)
    video = write_video(tmp_path / "v.mp4", [np.roll(photo, 3 * i, 1) for i in range(4)])
    words = ["--fov", "60", "--box", "180,110,120", "--benchmark", "--batch", "2", "--out", str(tmp_path / "out")]
    assert main([str(checkpoint), str(video), *words]) == 0
    said = capsys.readouterr().out
    shares = [float(found) for found in re.findall(r"the stages add up to ([\d.]+) % of the total", said)]
    assert len(shares) == 4
    assert all(95 <= share <= 100.1 for share in shares)
    for title in ("AMT, batch 1", "AMT, batch 2", "plain PyTorch, batch 1", "plain PyTorch, batch 2"):
        assert f"{title}, ms a picture" in said
    assert re.search(r"p50 +p90 +p99 +mean +share", said)
    assert re.search(r"AMT beside plain PyTorch: network [\d.]+ x at batch 1, [\d.]+ x at batch 2", said)
    assert re.search(r"picture to answer [\d.]+ x; all stages one after the other [\d.]+ x", said)
    assert re.search(r"over the whole input: [\d.]+ frames/s; end to end [\d.]+ x", said)
    assert "scope, one picture after the other" in said
    assert not (tmp_path / "out").exists()


class Watched(ModelLocator):
    """Sees one hand, and notes whether the network or its lean copy was asked."""

    def __init__(self, asked: list[str], name: str):
        self.asked, self.name = asked, name

    def plain(self):
        return Watched(self.asked, "as trained")

    def locate_many(self, images):
        self.asked.append(self.name)
        return [[Located(np.array(BOX), "left", 0.9)] for _ in images]


def test_plain_pytorch_finds_hands_with_the_locator_as_it_was_trained(checkpoint, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PICTURES", 2)
    monkeypatch.setattr(benchmark, "WARM_UP", 1)
    asked: list[str] = []
    monkeypatch.setattr(predictors, "choose_finder", lambda *_: Watched(asked, "lean"))
    video = write_video(tmp_path / "v.mp4", [photo] * 2)
    assert main([str(checkpoint), str(video), "--fov", "60", "--benchmark", "--batch", "2", "--no-draw"]) == 0
    assert list(dict.fromkeys(asked)) == ["lean", "as trained"]
    assert asked[-1] == "lean"  # the run as it is


class Palms:
    """In the place of MediaPipe's models: a palm in every other picture."""

    opened: ClassVar[list[str]] = []

    def __init__(self, source):
        self.opened.append(source)
        self.looked = 0

    def palms(self, image):
        self.looked += 1
        return np.zeros((self.looked % 2, 9, 2))

    def hands(self, image, palms):
        assert palms.shape == (1, 9, 2)
        time.sleep(0.002)
        return []


def test_mediapipe_is_timed_on_the_same_pictures_where_its_files_are(checkpoint, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "PICTURES", 6)
    monkeypatch.setattr("amt.locate.mediapipe.MediaPipeLocator", Palms)
    video = write_video(tmp_path / "v.mp4", [photo] * 3)
    words = ["--fov", "60", "--box", "180,110,120", "--benchmark", "--batch", "2", "infer.mediapipe=some.whl"]
    assert main([str(checkpoint), str(video), *words]) == 0
    said = capsys.readouterr().out
    assert Palms.opened == ["some.whl"]
    table = said[said.index("MediaPipe, ms a picture") :].splitlines()
    rows = {line.split()[0]: [float(x) for x in line.split()[1:5]] for line in table[1:4]}
    assert set(rows) == {"palms", "landmarks", "total"}
    assert 2 <= rows["landmarks"][0] <= rows["total"][0]
    assert "no mesh, object, contact or distance" in said


def test_files_of_mediapipe_that_are_not_there_are_told(checkpoint, photo, tmp_path, capsys):
    video = write_video(tmp_path / "v.mp4", [photo] * 3)
    assert main([str(checkpoint), str(video), "--benchmark", "infer.mediapipe=/nowhere.whl"]) == 2
    assert "/nowhere.whl: no such file; give infer.mediapipe=FILE" in capsys.readouterr().err


def test_a_compiled_network_sees_batches_of_two_sizes_alone(predictor, photo):
    """1 and the batch size; the last crop fills up, and its copies are dropped. (tests/model compiles the network.)"""
    other = Predictor(predictor.model, predictor.record, "cpu", batch_size=4, engine="compile")
    assert other.engine._forward is not other.model  # the compiler's; it works at the first call
    sizes = []

    def forward(inputs):
        sizes.append(inputs.batch_size)
        return predictor.model(inputs)

    other.engine._forward = forward
    boxes = [(60.0 + 15 * i, 110, 100) for i in range(7)]
    for ours, theirs in zip(other(photo, K, boxes), predictor(photo, K, boxes)):
        np.testing.assert_allclose(ours.joints, theirs.joints, atol=2e-5)
    other(photo, K, BOX)
    assert sizes == [4, 4, 1]


def test_bfloat16_moves_joints_a_little(predictor, photo):
    narrow = Predictor(predictor.model, predictor.record, "cpu", bfloat16=True)(photo, K, BOX)
    exact = predictor(photo, K, BOX)
    assert 0 < np.abs(narrow.joints - exact.joints).max() < 0.05
    assert narrow.joints.dtype == np.float32
    assert isinstance(bfloat16_is_slow(predictor.device), bool)
    assert not bfloat16_is_slow(SimpleNamespace(type="cuda"))
    with pytest.raises(InputError, match="engine: expected one of auto, eager, trace, compile; got 'fast'"):
        Predictor(predictor.model, predictor.record, "cpu", engine="fast")


def moving(result, offsets, scale=1.0):
    """The hand at places ``offsets`` [N, 3] (m)."""
    return [replace(result, joints=(result.joints * scale + offset).astype(np.float32)) for offset in offsets]


def test_figures_without_labels_measure_what_they_say(result):
    time = np.arange(9.0)[:, None]
    still, even = np.zeros((9, 3)), 0.01 * time * (1, 0, 0)
    faster = 0.001 * time**2 * (0, 1, 0)  # an acceleration of 2 mm / frame²
    for offsets, expected in ((still, 0), (even, 0), (faster, 2)):
        figures = Figures()
        figures.add(moving(result, offsets))
        assert np.mean(figures.wrist) == pytest.approx(expected, abs=1e-3)
        assert np.mean(figures.others) == pytest.approx(0, abs=1e-3)  # the hand itself does not move
        assert np.mean(figures.bones) == pytest.approx(0, abs=1e-4)
    figures = Figures()
    figures.add(
        [replace(r, joints=r.joints * (1 + 0.1 * (-1) ** i)) for i, r in enumerate(moving(result, np.zeros((8, 3))))]
    )
    assert np.mean(figures.bones) == pytest.approx(0.1, abs=1e-4)
    figures.add([replace(result, hand_found=False)] * 8)
    assert figures.row()["found"] == "50.0 %"
    lengths = bone_lengths(result.joints[None])[0]
    assert lengths.shape == (20,)
    assert 0.01 < lengths.min() < lengths.max() < 0.15


def test_agreement_with_other_joints_is_a_share_of_the_box(result):
    figures = Figures()
    figures.compare(result, [])
    assert figures.row()["to MediaPipe"] == "–"
    far = result.joints_2d + np.float32(500)
    near = result.joints_2d + 0.1 * result.box[2] * np.array((0.6, 0.8), np.float32)
    figures.compare(result, [("left", far), ("right", near)])
    assert figures.row()["to MediaPipe"] == "10.0 %"


def test_mediapipe_is_asked_where_it_is_installed(monkeypatch):
    mark = SimpleNamespace(x=0.5, y=0.25)
    found = SimpleNamespace(
        multi_handedness=[SimpleNamespace(classification=[SimpleNamespace(label="Left")])],
        multi_hand_landmarks=[SimpleNamespace(landmark=[mark] * 21)],
    )
    hands = SimpleNamespace(Hands=lambda **_: SimpleNamespace(process=lambda image: found))
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", SimpleNamespace(solutions=SimpleNamespace(hands=hands)))
    ((side, pixels),) = mediapipe_landmarks()(np.zeros((100, 200, 3), np.uint8))
    assert side == "right"  # it names sides as in a mirror
    np.testing.assert_allclose(pixels, np.tile((99.5, 24.5), (21, 1)))
    monkeypatch.setitem(__import__("sys").modules, "mediapipe", None)
    assert mediapipe_landmarks() is None


def test_checkpoints_are_compared_on_a_users_folder(checkpoint, unsure_checkpoint, photo, tmp_path, capsys):
    for i in range(3):
        write_image(tmp_path / "set" / "walk" / f"frame_{i:03d}.jpg", np.roll(photo, 4 * i, 1))
    write_image(tmp_path / "set" / "still.png", photo)
    (tmp_path / "set" / "broken.png").write_bytes(b"no picture")
    words = ["--bench", str(tmp_path / "set"), "--box", "180,110,120", "--fov", "60"]
    assert main([str(checkpoint), str(unsure_checkpoint), *words]) == 0
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if line.startswith((str(checkpoint), str(unsure_checkpoint)))]
    assert [re.search(r"[\d.]+ %", row).group() for row in rows] == ["100.0 %", "0.0 %"]
    assert all(f"{name}: {meaning}." in said.out for name, meaning in MEANING.items())
    assert said.err.count("broken.png: is not an image") == 2  # once a checkpoint


def test_locators_are_compared(checkpoint, photo, tmp_path, capsys, monkeypatch):

    class Sees:
        def __init__(self, *hands):
            self.hands = list(hands)

        def locate(self, image):
            return self.hands

        def locate_many(self, images):
            return [self.locate(image) for image in images]

    finders = {"model": Sees(Located(np.array(BOX), "left", 0.9)), "mediapipe": Sees()}
    monkeypatch.setattr(predictors, "choose_finder", lambda name, *_: finders[name])
    for i in range(3):
        write_image(tmp_path / "set" / f"{i}.png", photo)
    words = ["--bench", str(tmp_path / "set"), "--fov", "60", "--locators"]
    assert main([str(checkpoint), *words, "model,mediapipe"]) == 0
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if line.startswith(str(checkpoint))]
    assert [re.search(r", (\w+) +([\d.]+ %)", row).groups() for row in rows] == [
        ("model", "100.0 %"),
        ("mediapipe", "0.0 %"),
    ]
    assert main([str(checkpoint), *words, "model,eyes"]) == 2
    assert "--locators: expected some of model, mediapipe, window, got 'eyes'" in capsys.readouterr().err


def test_clips_are_videos_and_numbered_pictures(photo, tmp_path):
    for i in range(4):
        write_image(tmp_path / "a" / f"{i:04d}.jpg", photo)
    write_image(tmp_path / "b" / "x.jpg", photo)
    write_image(tmp_path / "b" / "y.jpg", photo)
    write_video(tmp_path / "v.mp4", [photo] * 3)
    assert sorted(len(clip.source) for clip in clips_of(tmp_path)) == [1, 1, 3, 4]
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(InputError, match=f"--bench {folder}: (holds neither|no such folder)"):
            clips_of(folder)


def test_a_table_has_a_row_for_each_checkpoint():
    text = table({"a": Figures().row(), "b": Figures().row()}).splitlines()
    assert [line.split()[0] for line in text[:3]] == ["checkpoint", "a", "b"]
