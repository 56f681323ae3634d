"""What the locator that ships is made of: rendered scenes, crops for the second stage, its loss, and a run that goes on."""

import shutil

import numpy as np
import pytest
import torch

from amt.data.whole_frames import HAND, OBJECT
from amt.model.shipped_locator import shipped_record
from amt.model.verifier import SIZE, UNIT, Verdict
from amt.train.locator.bake.crops import NOTHING, CropTargets, make_crop, wrong_proposals
from amt.train.locator.bake.loss import verifier_loss
from amt.train.locator.bake.scenes import ARM, Scenes, read_scenes, render_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("embreex")
    out = tmp_path_factory.mktemp("bake")
    for name in ("train", "val"):
        assert list(render_scenes(out / name, {"train": 100, "val": 999}[name], 2, 2)) == [2]
    return out


@pytest.fixture(scope="module")
def scenes(folder) -> Scenes:
    return read_scenes(folder / "train")


@pytest.fixture
def targets(scenes) -> tuple[np.ndarray, CropTargets]:
    rng = np.random.default_rng(0)
    crops, rows = zip(*(make_crop(scenes, scenes.empty, rng) for _ in range(60)))
    return np.stack(crops), CropTargets(*(torch.from_numpy(np.stack(column)) for column in zip(*rows)))


def test_scenes_show_hand_arm_and_object_and_one_view_without_them(scenes):
    assert len(scenes) == 4
    assert len(scenes.empty) == 2
    for marks, joints in zip(scenes.marks, scenes.joints):
        assert {HAND, OBJECT, ARM} <= set(np.unique(marks))
        y, x = np.nonzero(marks == HAND)
        assert np.linalg.norm((x.mean(), y.mean()) - joints.mean(0)) < (joints.max(0) - joints.min(0)).max()
    assert scenes.depth.min() > 0.3
    assert scenes.depth.max() < 1.5


def test_rendering_goes_on_where_it_was_ended(folder, scenes):
    before = (folder / "train" / "000000.npz").stat().st_mtime_ns
    assert list(render_scenes(folder / "train", 100, 2, 2)) == [2]
    assert (folder / "train" / "000000.npz").stat().st_mtime_ns == before


def test_crops_of_hands_show_them(targets):
    crops, targets = targets
    assert crops.shape == (60, SIZE, SIZE, 3)
    assert {0, 1} <= set(targets.hand.tolist())
    of_hands = targets.hand == 1
    assert 30 <= of_hands.sum() < 60
    assert torch.equal(of_hands, targets.known == 1)
    assert set(targets.right[of_hands].tolist()) == {0.0, 1.0}  # mirrored ones are of the other side
    places = (targets.joints[of_hands] + 1) / 2 * SIZE - 0.5
    low, high = places.amin(1), places.amax(1)
    middle, half = targets.box[of_hands, :2] * UNIT + (SIZE - 1) / 2, targets.box[of_hands, 2:].exp() * UNIT / 2
    torch.testing.assert_close(low, middle - half, atol=1e-3, rtol=0)
    torch.testing.assert_close(high, middle + half, atol=1e-3, rtol=0)
    assert targets.depth[of_hands].abs().max() < 2  # dm


def test_the_loss_of_perfect_verdicts_is_nothing_and_every_term_counts(targets):
    targets = targets[1]
    within = targets.joints.clamp(-1, 1)
    skin = targets.skin.clamp(0, 1).round()
    targets = CropTargets(
        **{**vars(targets), "joints": within, "skin": torch.where(targets.skin < 0, targets.skin, skin)}
    )
    perfect = Verdict(
        40.0 * targets.hand - 20, 40 * targets.right - 20, targets.box, targets.depth, within, 40 * skin - 20
    )
    terms = verifier_loss(perfect, targets)
    assert terms["loss"] < 1e-5
    assert terms["right"] == 1
    for name, field in (
        ("hand", "hand"),
        ("side", "right"),
        ("box", "box"),
        ("depth", "depth"),
        ("joints", "joints"),
        ("skin", "skin"),
    ):
        worse = verifier_loss(perfect._replace(**{field: -getattr(perfect, field) + 0.3}), targets)
        assert worse[name] > 0.1


def test_joints_of_left_hands_teach_nothing(targets):
    targets = targets[1]
    zeros = torch.zeros(60)
    joints = torch.zeros_like(targets.joints, requires_grad=True)
    verifier_loss(
        Verdict(zeros, zeros, torch.zeros(60, 4), torch.zeros(60, 21), joints, torch.zeros(60, 10, 10)), targets
    )["loss"].backward()
    moved = joints.grad.abs().sum((1, 2)) > 0
    assert moved.any()
    assert (targets.right[moved] == 1).all()


def test_proposals_at_no_hand_are_what_is_learned_not_to_be_one(scenes):
    image = scenes.images[0]
    proposals = np.array([[10.0, 10, 60, 60], [100, 100, 160, 160], [200, 20, 260, 80]])
    hands = np.array([[105.0, 95, 165, 150]])
    crops = wrong_proposals(image, proposals, hands, 5)
    assert [crop.shape for crop in crops] == [(SIZE, SIZE, 3)] * 2
    assert len(wrong_proposals(image, proposals, hands, 1)) == 1
    assert wrong_proposals(image, np.zeros((0, 4)), hands, 5) == []
    assert NOTHING[0] == 0


def test_a_run_writes_the_asset_and_its_card_and_goes_on(folder, tmp_path, monkeypatch):
    from amt.train.locator.bake import __main__ as command
    from amt.train.locator.bake import fit

    monkeypatch.setattr(fit, "PICTURES", 2)
    monkeypatch.setattr(fit, "CROPS", 8)
    asset = tmp_path / "assets" / "locator.safetensors"
    rounds = []
    for _ in range(2):
        figures = command.bake(folder, 2, 0.01, asset, {"val": 2})
        rounds.append(shipped_record(asset)["rounds"])
    assert 0 < rounds[0] < rounds[1]
    assert figures["val"]["frames"] == 4
    assert shipped_record(asset)["figures"]["val"]["false_alarms"] == figures["val"]["false_alarms"]
    assert "| recall |" in asset.with_suffix(".md").read_text()
    assert command.main([str(tmp_path), "--scenes", "0"]) == 2


def test_a_new_state_begins_with_an_assets_weights_and_its_rounds(folder, tmp_path, monkeypatch):
    from amt.model.shipped_locator import ASSET, shipped_locator
    from amt.train.locator.bake import __main__ as command
    from amt.train.locator.bake import fit

    monkeypatch.setattr(fit, "PICTURES", 2)
    monkeypatch.setattr(fit, "CROPS", 8)
    stages = fit.Stages()
    stages.begin(ASSET)
    for name, value in shipped_locator().state_dict().items():
        torch.testing.assert_close(stages.locator().state_dict()[name], value, rtol=0, atol=0)
        own = stages.nets["verifier" if name.startswith("verifier.") else "proposals"].state_dict()
        torch.testing.assert_close(own[name.removeprefix("verifier.")], value, rtol=0, atol=0)
    out, asset = tmp_path / "out", tmp_path / "locator.safetensors"
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(fit.STATE))
    before = shipped_record(ASSET)["rounds"]
    command.bake(out, 2, 0.0, asset, {"val": 2}, start_from=ASSET)
    assert shipped_record(asset)["rounds"] == before
    command.bake(out, 2, 0.01, asset, {"val": 2}, start_from=tmp_path / "nowhere")  # there is a state: it goes on
    assert shipped_record(asset)["rounds"] > before
    assert f"first {before:,} rounds" in asset.with_suffix(".md").read_text()


def test_a_start_that_cannot_be_is_told_before_anything_is_rendered(tmp_path, capsys):
    from amt.model.locator import Locator
    from amt.model.shipped_locator import save_shipped
    from amt.train.locator.bake import __main__ as command

    other, broken = tmp_path / "other.safetensors", tmp_path / "broken.safetensors"
    save_shipped(other, Locator(), {"rounds": 3})
    broken.write_bytes(b"\xff" * 100)
    for start, told in (
        (tmp_path / "none", "is not a locator's file, or broken"),
        (broken, "is not a locator's file, or broken"),
        (other, "this trains LocatorConfig(width=256"),
    ):
        assert command.main([str(tmp_path / "out"), "--start", str(start)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"--start {start}: " in said
        assert told in said
    assert not (tmp_path / "out").exists()
    for words, told in ((["--seed", "998"], "held out"), (["--rate", "0"], "--rate must be above 0")):
        assert command.main([str(tmp_path / "out"), *words]) == 2
        assert told in capsys.readouterr().err


def test_hidden_views_are_those_whose_hands_cover_least_of_their_boxes(scenes):
    shown = [np.array(m) for m in scenes.marks[:1]] * 8
    for k, marks in enumerate(shown):
        shown[k] = marks = marks.copy()
        y, x = np.nonzero(marks == HAND)
        marks[y[: k * len(y) // 8], x[: k * len(y) // 8]] = 0  # a k-th part of the hand is behind something
    joints = np.stack([np.linspace((100.0, 80), (140, 120), 21)] * 8)
    joints[7] += 1000  # out of the picture
    alike = Scenes(scenes.images[:1].repeat(8, 0), np.stack(shown), joints, scenes.depth[:1].repeat(8, 0), None, None)
    assert alike.hidden.tolist() == [6]
