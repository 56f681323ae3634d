"""The locator that ships: its file, and that it finds hands of people it has not seen, in scenes rendered here."""

import pytest
import torch

from amt.locate import ModelLocator
from amt.metrics.detections import matches
from amt.model.locator import Locator, LocatorConfig
from amt.model.shipped_locator import ASSET, save_shipped, shipped_locator, shipped_record

SEED, SCENES, VIEWS = 4242, 8, 3
FOUND, FALSE = 0.7, 2  # least recall in these scenes (a broken file finds none); most false boxes in the empty ones


def test_the_file_is_small_and_says_what_it_is():
    record = shipped_record()
    assert ASSET.stat().st_size < 3 * 2**20
    assert record["license"] == "Apache-2.0"
    assert record["figures"]["test"]["frames"] >= 256
    card = ASSET.with_suffix(".md").read_text()
    for name in ("recall", "ap50", "side", "false_alarms"):
        assert f"{record['figures']['test'][name]:.4g}" in card
    assert record["config"]["threshold"] == record["figures"]["val"]["threshold"]


def test_what_is_saved_is_read_again_and_a_broken_file_is_one_line(tmp_path):
    torch.manual_seed(0)
    locator = Locator(LocatorConfig(width=64, height=32, channels=(8, 8, 8), threshold=0.4, verifier=(8, 8, 16))).eval()
    path = tmp_path / "locator.safetensors"
    save_shipped(path, locator, {"figures": {"val": {"recall": 0.5}}})
    again, record = shipped_locator(path), shipped_record(path)
    assert again.config == locator.config
    assert record["figures"] == {"val": {"recall": 0.5}}
    for name, value in locator.state_dict().items():
        assert (again.state_dict()[name] - value).abs().max() <= 2**-8 * value.abs().max()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=r"locator\.safetensors cannot be loaded \(.*\); install the package again"):
        shipped_locator(path)


def test_it_finds_hands_of_new_people_and_none_in_empty_scenes(tmp_path):
    pytest.importorskip("embreex")
    from amt.train.locator.bake.scenes import read_scenes, render_scenes

    assert list(render_scenes(tmp_path, SEED, SCENES, VIEWS)) == [SCENES]
    scenes = read_scenes(tmp_path)
    assert SCENES * VIEWS - 4 <= len(scenes) <= SCENES * VIEWS
    finder, found = ModelLocator(shipped_locator()), 0
    for image, joints, hands in zip(scenes.images, scenes.joints, finder.locate_many(list(scenes.images))):
        assert image.any()
        boxes, scores = [hand.tight for hand in hands], [hand.score for hand in hands]
        low, high = joints.min(0), joints.max(0)
        found += int((matches(boxes, scores, [[*low, *high]]) >= 0).sum())
    assert found >= FOUND * len(scenes)
    empty = finder.locate_many([picture[:240] for picture in scenes.empty])
    assert len(empty) == SCENES
    assert sum(len(hands) for hands in empty) <= FALSE
