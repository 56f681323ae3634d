"""The acceleration of predicted joints against the labels', on windows."""

from dataclasses import replace

import pytest
import torch

from amt.config import compose
from amt.model import AMT, ModelConfig
from amt.model.config import ConfigError
from amt.model.outputs import Hand
from amt.train.config import PROGRAM, Config, LossConfig
from amt.train.losses import TrainingLoss
from amt.train.losses.hand import smoothness_term


@pytest.fixture(scope="module")
def scene(make_batch):
    torch.manual_seed(0)
    batch = make_batch(6)
    with torch.no_grad():
        return AMT(ModelConfig()).eval()(batch.inputs), batch


def answered(prediction, joints):
    return replace(prediction, refined=Hand(joints, prediction.vertices))


WINDOWS = torch.tensor([0, 0, 0, 1, 1, 1])


def test_a_constant_error_and_one_that_grows_evenly_cost_nothing(scene):
    prediction, batch = scene
    drift = torch.arange(6.0)[:, None, None] * torch.randn(1, 21, 3) * 0.01
    p = answered(prediction, batch.targets.joints + 0.05 + drift)
    assert smoothness_term(p, batch.targets, WINDOWS) == pytest.approx(0, abs=1e-5)


def test_one_jump_costs_what_it_should(scene):
    """The middle frame of the first window has a fingertip 10 mm off along x: |-2 x 10 mm| / 0.1 m in 1 of 63 numbers."""
    prediction, batch = scene
    joints = batch.targets.joints.clone()
    joints[1, 8, 0] += 0.01
    loss = smoothness_term(answered(prediction, joints), batch.targets, WINDOWS)
    assert loss == pytest.approx(0.2 / 63 / 2, rel=1e-3)  # one of two triples


def test_the_whole_hands_jump_counts_once(scene):
    prediction, batch = scene
    joints = batch.targets.joints.clone()
    joints[1, :, 0] += 0.01
    assert smoothness_term(answered(prediction, joints), batch.targets, WINDOWS) == pytest.approx(
        0.2 / 63 / 2, rel=1e-3
    )


def test_windows_do_not_mix_and_missing_labels_reach_no_gradient(scene):
    prediction, batch = scene
    jump = batch.targets.joints + torch.where(WINDOWS == 1, 0.3, 0.0)[:, None, None]
    assert smoothness_term(answered(prediction, jump), batch.targets, WINDOWS) == pytest.approx(0, abs=1e-5)
    valid = torch.tensor([True, False, True, True, True, True])
    wild = batch.targets.joints.clone()
    wild[1] += 5
    joints = wild.requires_grad_()
    loss = smoothness_term(answered(prediction, joints), replace(batch.targets, hand_valid=valid), WINDOWS)
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert not joints.grad[:3].any()


@pytest.mark.parametrize("window", [None, torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2])])
def test_without_three_frames_of_a_window_it_is_nought(scene, window):
    prediction, batch = scene
    loss = TrainingLoss(LossConfig(smoothness=1.0))(prediction, replace(batch, window=window))
    assert loss.terms["smoothness"] == 0


def test_it_needs_windows_that_micro_batches_do_not_cut():
    words = ["train.loss.smoothness=1"]
    with pytest.raises(
        ConfigError, match=r"train\.loss\.smoothness needs windows of three frames or more: data\.window=3"
    ):
        Config(**compose(PROGRAM, words))
    words += ["data.window=4", "train.batch_size=24"]
    assert Config(**compose(PROGRAM, words)).data.window == 4
    with pytest.raises(ConfigError, match=r"train\.accumulate=4 cuts windows of data\.window=4 frames"):
        Config(**compose(PROGRAM, [*words, "train.accumulate=4"]))
