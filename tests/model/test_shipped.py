"""Weights that come with the package: found by name, whole, of this version, and never written to."""

import json
from pathlib import Path

import pytest
import torch

import amt
from amt.errors import UserError
from amt.model import AMT
from amt.model.checkpoint import CARD, CONFIG, METRICS, WEIGHTS, CheckpointError, read_record, save_checkpoint
from amt.model.hub import LOCAL
from amt.model.shipped import SHIPPED, checkpoint_folder, is_shipped

NAMES = list(SHIPPED)


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_by_its_name(name):
    predictor = amt.load(name, device="cpu")
    model = AMT.from_pretrained(name)
    assert predictor.model.config == model.config
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.origin.metrics["frames"] > 100
    assert model.origin.mean_pose is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_small_and_says_what_it_is(name):
    folder = SHIPPED[name]
    assert sorted(path.name for path in folder.iterdir()) == sorted((CARD, CONFIG, METRICS, WEIGHTS))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16e6
    card, metrics = (folder / CARD).read_text(), json.loads((folder / METRICS).read_text())
    assert "Apache-2.0" in card
    assert f"{metrics['wrist_aligned_mpjpe_mm']:.1f}" in card
    assert metrics["wrist_aligned_mpjpe_mm"] < 0.3 * metrics["baseline"]["wrist_aligned_mpjpe_mm"]


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_another_machine_is_told(name):
    record = json.loads((SHIPPED[name] / CONFIG).read_text())
    for key in LOCAL:
        section, last = key.rsplit(".", 1)
        owner = record
        for part in section.split("."):
            owner = owner.get(part) or {}
        assert "/" not in str(owner.get(last)), key
    assert json.loads((SHIPPED[name] / METRICS).read_text())["checkpoint"] == name


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("amt-tiny") == SHIPPED["amt-tiny"]
    assert is_shipped(checkpoint_folder("amt-tiny"))
    save_checkpoint("amt-tiny", model)
    assert not is_shipped(checkpoint_folder("amt-tiny"))
    assert torch.equal(AMT.from_pretrained("amt-tiny").keypoints.beside_and_trust, model.keypoints.beside_and_trust)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_checkpoint_hides_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "file":
        Path("amt-tiny").touch()
    else:
        Path("amt-tiny").mkdir()
        Path("amt-tiny", "predictions.jsonl").touch()
    assert checkpoint_folder("amt-tiny") == SHIPPED["amt-tiny"]


def test_the_packages_folder_is_known_by_any_path(tmp_path, monkeypatch):
    folder = SHIPPED["amt-tiny"]
    monkeypatch.chdir(folder.parent)
    (tmp_path / "link").symlink_to(folder)
    assert is_shipped(Path("amt-tiny"))
    assert is_shipped(folder / ".." / "amt-tiny")
    assert is_shipped(tmp_path / "link")
    assert not is_shipped(tmp_path)


def test_another_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("amt-huge") == Path("amt-huge")
    with pytest.raises(UserError, match="amt-huge: no such checkpoint folder"):
        amt.load("amt-huge")


@pytest.mark.parametrize("name", ["amt-tinny", "amt_tiny", "AMT-tiny", "amt-tiny/", "./amt-tiny"])
def test_a_name_that_is_almost_right_is_told_the_right_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for read in (amt.load, AMT.from_pretrained, lambda name: read_record(checkpoint_folder(name))):
        with pytest.raises(CheckpointError, match="the package's own weights are called amt-tiny") as caught:
            read(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", None, 3, b"x"])
def test_what_is_no_name_is_one_line_that_names_the_argument(name):
    for load, argument in ((amt.load, "checkpoint"), (AMT.from_pretrained, "source")):
        with pytest.raises(UserError, match=rf"^{argument}: expected a folder, .*; got {name!r}$"):
            load(name)
