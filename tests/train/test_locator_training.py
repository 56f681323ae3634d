"""The locator learns to find hands; its loss, its threshold, and what a run and a checkpoint make of it."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from whole_frames_made import made_frames

from amt.data.config import DataConfig
from amt.data.errors import DataError
from amt.model.checkpoint import load_locator
from amt.model.config import ConfigError
from amt.model.locator import STRIDE, Locator, LocatorConfig, LocatorMaps
from amt.train.locator.calibrate import MOST_FALSE, calibrate
from amt.train.locator.loss import LocatorTargets, locator_loss, make_targets
from amt.train.locator.train import fit, make_batch, train_locator
from amt.train.locator_config import LocatorTraining

SMALL = LocatorConfig(width=128, height=96, channels=(16, 24, 32))


def targets_of(boxes, right, ignored=(), height=96, width=128):
    """Of hands that fill their boxes."""
    skin = np.zeros((height, width), np.uint8)
    for left, top, far, bottom in np.reshape(boxes, (-1, 4)).astype(int):
        skin[top:bottom, left:far] = 255
    shaped = (np.reshape(b, (-1, 4)) for b in (boxes, ignored))
    arrays = make_targets(next(shaped), np.array(right, bool), next(shaped), skin)
    return LocatorTargets(*(torch.from_numpy(a)[None] for a in arrays))


def perfect(targets):
    """The maps that the targets ask for."""
    logits = torch.where(targets.heat >= 1, 20.0, -20.0)
    skin = targets.skin.clamp(1e-9, 1 - 1e-7).logit()
    return LocatorMaps(logits, 40 * targets.right - 20, targets.place[:, :2], targets.place[:, 2:], skin)


def test_targets_lead_back_to_the_boxes():
    boxes = [[10.0, 20.0, 50.0, 44.0], [80.0, 30.0, 100.0, 80.0]]
    targets = targets_of(boxes, [True, False])
    maps = perfect(targets)
    cells = targets.heat[0].eq(1).nonzero()
    assert len(cells) == 2
    for y, x in cells.tolist():
        box = maps.boxes()[0, y, x]
        expected = boxes[0] if x < 8 else boxes[1]
        torch.testing.assert_close(box, torch.tensor(expected), atol=1e-3, rtol=0)
        assert bool(targets.right[0, y, x]) == (x < 8)
    # cells beside a middle and on the hand know the same box
    known = targets.known[0].nonzero().tolist()
    assert len(known) > 2 * 9
    for y, x in known:
        torch.testing.assert_close(
            maps.boxes()[0, y, x], torch.tensor(boxes[0] if x < 8 else boxes[1]), atol=1e-3, rtol=0
        )


def test_the_loss_of_perfect_maps_is_nothing_and_of_others_is_not():
    targets = targets_of([[10.0, 20.0, 50.0, 44.0]], [True])
    maps = perfect(targets)
    terms = locator_loss(maps, targets)
    assert max(terms[name] for name in ("objectness", "side", "offset", "size")) < 1e-6
    for name in ("objectness", "side", "offset", "size", "skin"):
        worse = locator_loss(maps._replace(**{name: -getattr(maps, name) + 0.5}), targets)
        assert worse[name] > 2 * terms[name] + 0.1


def test_a_doubtful_hand_is_neither_right_nor_wrong():
    targets = targets_of([], [], [[10.0, 20.0, 50.0, 44.0]])
    maps = perfect(targets)
    said = maps.objectness.clone()
    said[0, 4, 3] = 5  # in the doubtful box
    assert locator_loss(maps._replace(objectness=said), targets)["objectness"] < 1e-6
    said[0, 10, 12] = 5
    assert locator_loss(maps._replace(objectness=said), targets)["objectness"] > 1


def test_a_picture_without_a_hand_has_finite_gradients():
    locator = Locator(SMALL)
    loss = locator_loss(
        locator(torch.zeros(2, 3, 96, 128)),
        LocatorTargets(*(torch.cat((f, f)) for f in vars(targets_of([], [])).values())),
    )
    loss["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in locator.parameters())


def test_a_batch_is_the_same_for_any_number_of_threads():
    frames, batches = made_frames(6), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        batches.append(make_batch(SMALL, frames, 8, seed=3, step=1))
    torch.set_num_threads(before)
    (images, targets), (others, same) = batches
    assert torch.equal(images, others)
    assert all(torch.equal(a, b) for a, b in zip(vars(targets).values(), vars(same).values()))


def test_an_epoch_shows_every_frame_once(monkeypatch):
    from amt.train.locator import train

    seen = []
    compose = train.compose
    monkeypatch.setattr(
        train,
        "compose",
        lambda f, w, h, seed, epoch, index: seen.append((epoch, index)) or compose(f, w, h, seed, epoch, index),
    )
    for step in range(3):
        make_batch(SMALL, made_frames(6), 8, seed=0, step=step)
    assert sorted(seen) == [(epoch, index) for epoch in range(4) for index in range(6)]
    assert [index for epoch, index in sorted(set(seen), key=seen.index)][:6] != list(range(6))


def test_it_learns_to_find_hands_it_has_not_seen():
    torch.manual_seed(0)
    locator = Locator(SMALL)
    fit(locator, made_frames(40), LocatorTraining(batch_size=8, lr=5e-3, muon_lr=1e-2), 90, 0, None, lambda *_: None)
    figures = calibrate(locator.eval(), made_frames(40, seed=9), seed=0)
    assert figures["recall"] > 0.9
    assert figures["ap50"] > 0.9
    assert figures["recall_two"] > 0.8
    assert figures["false_alarms"] <= MOST_FALSE


def test_a_threshold_allows_few_false_alarms():
    """One that has learned nothing gets a threshold at which it finds nothing, or little."""
    torch.manual_seed(0)
    untrained = Locator(SMALL).eval()
    with torch.no_grad():
        untrained.head.bias[0] = 0  # finds hands everywhere
    figures = calibrate(untrained, made_frames(10, seed=9), seed=0)
    assert figures["false_alarms"] <= MOST_FALSE or figures["threshold"] == 0.95
    assert figures["threshold"] > 0.4


def test_the_clock_ends_it():
    locator = Locator(SMALL)
    assert fit(locator, made_frames(4), LocatorTraining(batch_size=2), 10_000, 0, 0.0, lambda *_: None) == 0


@pytest.mark.parametrize("values", [{"steps": -1}, {"minutes": 0}, {"batch_size": 1}, {"lr": 0}])
def test_a_setting_that_cannot_be_is_named(values):
    with pytest.raises(ConfigError, match=f"train.locator.{next(iter(values))} must be"):
        LocatorTraining(**values)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    pytest.importorskip("embreex")
    from amt.data.synthetic.write import SetConfig, write_set

    return write_set(
        tmp_path_factory.mktemp("set") / "set",
        SetConfig(sequences=1, frames=1, subjects=1, seed=3),
        workers=1,
        progress=False,
    )


def test_a_run_leaves_a_locator_in_its_checkpoint(small_set, make_small, tmp_path):
    from amt.train.trainer import run

    config = make_small(
        "run", steps=2, validate_every=0, pictures_every=0, locator=LocatorTraining(steps=2, batch_size=2)
    )
    config.data = replace(config.data, root=str(small_set), split="s0", cache=str(tmp_path / "cache"))
    folders = [run(config, progress=False)]
    locator = load_locator(folders[0])
    record = json.loads((folders[0] / "config.json").read_text())
    assert record["locator"]["threshold"] == locator.config.threshold
    assert record["train"]["locator"]["steps"] == 2
    config.train = replace(config.train, output=str(tmp_path / "again"))
    folders.append(run(config, progress=False))
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second


def test_without_steps_there_is_none(small_set, make_small, tmp_path):
    from amt.train.trainer import run

    config = make_small("run", steps=1, validate_every=0, pictures_every=0)
    config.data = replace(config.data, root=str(small_set), split="s0", cache=str(tmp_path / "cache"))
    assert load_locator(run(config, progress=False)) is None


def test_a_set_that_teaches_none_costs_a_warning_and_not_the_model(make_small, monkeypatch, caplog):
    from amt.train.locator import train

    def fail(*_, **__):
        raise DataError("the disk is gone")

    monkeypatch.setattr(train, "train_locator", fail)
    with caplog.at_level(logging.WARNING):
        assert train.locator_beside(
            make_small("run", locator=LocatorTraining(steps=1)), torch.device("cpu"), False
        ) == (None, {})
    assert "no locator of its own, hands will be found by the one that ships: the disk is gone" in caplog.text


def test_the_command_adds_one_to_a_checkpoint(small_set, make_small, tmp_path, capsys):
    from amt.train.locator.__main__ import main
    from amt.train.trainer import run

    config = make_small("run", steps=1, validate_every=0, pictures_every=0)
    config.data = replace(config.data, root=str(small_set), split="s0", cache=str(tmp_path / "cache"))
    folder = run(config, progress=False)
    assert main([str(folder), "train.locator.steps=1", "train.locator.batch_size=2"]) == 0
    assert load_locator(folder) is not None
    assert main([str(folder), "train.lr=1"]) == 2
    assert "train.lr has no effect in amt.train.locator" in capsys.readouterr().err
    assert main([]) == 2


def test_without_validation_people_it_says_what_its_figures_are(small_set, caplog):
    data = DataConfig(root=str(small_set), split="s1")  # subject 1 is a training person
    with caplog.at_level(logging.WARNING):
        _, figures = train_locator(data, LocatorTraining(batch_size=2), 1, 0, "cpu", progress=False)
    assert figures["frames"] > 0
    assert "calibrated on frames of its training" in caplog.text


def test_a_cell_is_eight_pixels():
    assert Locator(SMALL)(torch.zeros(1, 3, 96, 128)).objectness.shape == (1, 96 // STRIDE, 128 // STRIDE)
