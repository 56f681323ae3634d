"""A model that answers with one pose is noticed; one that learns is left alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from amt.train.collapse import CollapseMonitor, spread_ratio
from amt.train.records import read_log
from amt.train.trainer import TrainingError, run


def test_spread_is_one_for_the_labels_and_nought_for_their_mean(make_batch):
    targets = make_batch(6).targets
    joints, centre = targets.joints, torch.randn(6, 1, 3)
    relative = joints - joints[:, :1]
    assert float(spread_ratio(joints + centre, targets)) == pytest.approx(1, rel=1e-4)
    assert float(spread_ratio(0.5 * joints, targets)) == pytest.approx(0.5, rel=1e-4)
    assert float(spread_ratio(relative.mean(dim=0) + centre, targets)) < 1e-4


def test_samples_without_a_label_do_not_count(make_batch):
    targets = make_batch(6).targets
    wrong = targets.joints.clone()
    wrong[[1, 4]] = float("nan")
    valid = torch.tensor([True, False, True, True, False, True])
    some = replace(targets, joints=wrong, hand_valid=valid)
    assert float(spread_ratio(wrong, some)) == pytest.approx(1, rel=1e-4)
    nobody = replace(targets, hand_valid=torch.zeros(6, dtype=torch.bool))
    assert math.isnan(spread_ratio(targets.joints, nobody))


def rows(*spreads, first=0):
    return [{"step": first + i, "spread": spread} for i, spread in enumerate(spreads)]


def test_only_low_looks_in_a_row_after_the_warm_up_count():
    monitor = CollapseMonitor(checks=3, first_step=10)
    assert monitor.look(rows(0.0, 0.0)) is None
    assert monitor.look(rows(0.0, first=10)) is None
    assert monitor.look(rows(float("nan"), first=11)) is None
    assert monitor.look(rows(0.05, 0.3, first=12)) is None  # 0.175 in the mean
    assert monitor.low == 0
    assert [monitor.look(rows(0.02, first=step)) for step in (14, 15)] == [None, None]
    again = CollapseMonitor(checks=3, first_step=10)
    again.load_state_dict(monitor.state_dict())
    assert "step 16: the model has collapsed to a mean pose: for 3 looks in a row" in again.look(rows(0.02, first=16))
    off = CollapseMonitor(checks=0, first_step=0)
    assert all(off.look(rows(0.0)) is None for _ in range(200))


def test_a_task_made_to_collapse_ends_with_a_report(make_small, small_loader):
    """Every sample shows the same picture, so that no model can do better than the mean of the labels."""
    inputs = small_loader.all.inputs
    same = inputs[[0] * inputs.batch_size]
    small_loader.all = replace(small_loader.all, inputs=same, targets=replace(small_loader.all.targets))
    config = make_small("flat", steps=40, log_every=2, collapse_checks=4, warmup_steps=3, save_every=100)
    with pytest.raises(TrainingError, match=r"step 9: the model has collapsed.*last 0\.0.*train\.collapse_checks=0"):
        run(config, small_loader, progress=False)
    spreads = [float(row["spread"]) for row in read_log(Path(config.train.output) / "log.jsonl")]
    assert len(spreads) == 10
    assert max(spreads) < 0.1


def test_a_model_that_learns_is_left_alone(make_small, small_loader):
    config = make_small("apart", steps=20, log_every=2, collapse_checks=2, warmup_steps=3, save_every=100)
    run(config, small_loader, progress=False)
    spreads = [float(row["spread"]) for row in read_log(Path(config.train.output) / "log.jsonl")]
    assert len(spreads) == 20
    assert min(spreads) > 0.3
