"""How terms and joints weigh over a run: by the running error, by schedule, by learned variances."""

import dataclasses

import pytest
import torch

from amt.config import compose
from amt.hand.skeleton import TIPS
from amt.model import AMT, ModelConfig
from amt.train.config import PROGRAM, TERMS, TrainConfig
from amt.train.losses import LossConfig, TrainingLoss, compute_loss, wanted_terms
from amt.train.losses.running import ContactScores, JointErrors
from amt.train.losses.weights import weights_at
from amt.train.records import read_log
from amt.train.states import load_newest
from amt.train.trainer import Trainer, run


@pytest.fixture(scope="module")
def answers(make_batch):
    torch.manual_seed(0)
    batch = make_batch(3, left=True)
    with torch.no_grad():
        return AMT(ModelConfig(decoder_depth=1, refine_steps=3)).eval()(batch.inputs), batch


def test_a_fingertip_weighs_more_and_a_bad_joint_more_still():
    errors, true = JointErrors(), torch.rand(4, 21, 3)
    before = errors.weights()
    assert before[1:].mean() == pytest.approx(1)
    assert (before[list(TIPS)] > 1.4 * before[1]).all()
    predicted = true.clone()
    predicted[:, 1:] += torch.tensor([0.01, 0, 0])
    predicted[:, 7] += torch.tensor([0.02, 0, 0])  # 30 mm off where the others are 10 mm off
    predicted[3] = float("nan")
    errors.update(predicted, true, torch.tensor([True, True, True, False]))
    after = errors.weights()
    assert after.isfinite().all()
    assert after[1:].mean() == pytest.approx(1)
    assert after[7] / after[6] == pytest.approx(2 / (10 / 11), rel=1e-3)  # the ratio ends at 2; the mean error is 11 mm
    unchanged = {name: value.clone() for name, value in errors.state_dict().items()}
    errors.update(predicted, true, torch.zeros(4, dtype=torch.bool))
    assert all(torch.equal(value, unchanged[name]) for name, value in errors.state_dict().items())


def test_adaptive_weights_follow_the_error_and_the_gradient_follows_them(answers):
    prediction, batch = answers
    losses = TrainingLoss(LossConfig(adaptive=True))
    for _ in range(3):
        losses(prediction, batch)
    steps = prediction.steps.clone().requires_grad_()
    losses.eval()(dataclasses.replace(prediction, steps=steps), batch).total.backward()
    plain = prediction.steps.clone().requires_grad_()
    compute_loss(dataclasses.replace(prediction, steps=plain), batch, LossConfig()).total.backward()
    assert losses.joint_errors.seen > 0
    assert not torch.equal(steps.grad, plain.grad)


def test_contact_f1_stands_beside_that_of_the_best_constant_mask():
    scores = ContactScores(6)
    labels = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    logits = torch.where(torch.tensor([[1, 0, 0, 0, 0, 1]], dtype=torch.bool), 1.0, -1.0).expand(3, 6)
    for _ in range(5):
        scores.update(logits, labels, torch.tensor([True, True, False]))
    found = {name: float(value) for name, value in scores.scores().items()}
    assert found["contact_f1"] == pytest.approx(2 * 2 / (4 + 5))  # two right of four named, five to find
    masks = ((torch.arange(64)[:, None] >> torch.arange(6)) & 1).bool()
    best = max(2 * int((labels[:2] & m).sum()) / max(1, int(2 * m.sum()) + 5) for m in masks)
    assert found["contact_f1_constant"] == pytest.approx(best)


def test_a_scheduled_weight_is_linear_between_its_points():
    schedule = {"contact": [[10, 0.0], [20, 0.5], [30, 0.1]]}
    found = [weights_at(step, LossConfig(), schedule)["contact"] for step in (0, 10, 15, 20, 25, 30, 1000)]
    assert found == pytest.approx([0, 0, 0.25, 0.5, 0.3, 0.1, 0.1])
    assert weights_at(15, LossConfig(), schedule)["kl"] == LossConfig().kl
    assert "contact" in wanted_terms(LossConfig(contact=0), schedule)
    assert "contact" not in wanted_terms(LossConfig(), {"contact": [[0, 0.0]]})


def test_the_schedule_decides_the_total_at_each_step(answers):
    prediction, batch = answers
    losses = TrainingLoss(LossConfig(), {"joints": [[0, 0.0], [10, 4.0]]}).eval()
    totals = [losses(prediction, batch, step) for step in (0, 5, 10)]
    joints = float(totals[0].terms["joints"])
    assert float(totals[1].total - totals[0].total) == pytest.approx(2 * joints, rel=1e-3)
    assert float(totals[2].total - totals[0].total) == pytest.approx(4 * joints, rel=1e-3)


def test_a_schedule_comes_from_yaml_and_from_the_command_line():
    config = compose(PROGRAM, ["train.loss_schedule={contact: [[0, 0.0], [1000, 0.5]]}"])["train"]
    assert config.loss_schedule == {"contact": [[0, 0.0], [1000, 0.5]]}
    one_key = compose(PROGRAM, ["train.loss_schedule.kl=[[5,0.1]]"])["train"]
    assert one_key.loss_schedule == {"kl": [[5, 0.1]]}
    with pytest.raises(ValueError, match=r"train\.loss\.foo: no such key; there are keypoints, .* uncertainty$"):
        compose(PROGRAM, ["train.loss.foo=3"])


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"contacts": [[0, 0.0]]}, r"train\.loss_schedule\.contacts: no such term; there are keypoints, "),
        ({"contact": 0.5}, r"contact must be a list of \[step, weight\], such as \[\[0,0\],\[1000,0\.5\]\]; got 0\.5"),
        ({"contact": [[0, 0.1], [0, 0.2]]}, r"contact: steps must grow; got 0, 0"),
        ({"contact": [[0, -0.1]]}, r"contact must not be negative; got -0\.1"),
        ({"contact": [[0.5, 0.1]]}, r"contact: a step must be a whole number, at least 0; got 0\.5"),
    ],
)
def test_a_wrong_schedule_is_told_in_one_line(schedule, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(loss_schedule=schedule)


def test_all_weights_0_are_refused():
    with pytest.raises(ValueError, match=r"train\.loss: all weights are 0"):
        TrainConfig(loss=LossConfig(**dict.fromkeys(TERMS, 0.0)))


def test_learned_variances_begin_as_fixed_weights_and_move_toward_their_terms(answers):
    """d/ds (exp(-s) L + s) = 1 - exp(-s) L: a weighted term above 1 raises its variance, one below lowers it."""
    prediction, batch = answers
    config = LossConfig(uncertainty=True)
    losses = TrainingLoss(config)
    loss = losses(prediction, batch)
    fixed = compute_loss(prediction, batch, LossConfig())
    torch.testing.assert_close(loss.total.detach(), fixed.total)
    loss.total.backward()
    assert {"kl", "diversity"}.isdisjoint(losses.variances.log_variance)
    assert "joints" in losses.variances.log_variance
    for name, parameter in losses.variances.log_variance.items():
        labelled = fixed.terms[name] != 0  # this batch says nothing of visibility
        expected = 1 - getattr(config, name) * float(fixed.terms[name]) if labelled else 0.0
        assert float(parameter.grad) == pytest.approx(expected, rel=1e-3, abs=1e-4), name


def test_a_term_without_labels_leaves_its_variance_alone(answers):
    prediction, batch = answers
    targets = dataclasses.replace(batch.targets, contact_valid=torch.zeros(3, dtype=torch.bool))
    losses = TrainingLoss(LossConfig(uncertainty=True))
    losses(prediction, dataclasses.replace(batch, targets=targets)).total.backward()
    assert losses.variances.log_variance["contact"].grad == 0


def test_variances_and_running_errors_are_trained_saved_and_resumed(make_config, loader):
    settings = {"loss": LossConfig(uncertainty=True, adaptive=True), "loss_schedule": {"contact": [[0, 0.0], [2, 0.5]]}}
    config = make_config("whole", steps=4, **settings)
    run(config, loader, progress=False)
    newest = load_newest(make_output(config) / "states", torch.device("cpu"))[1]["losses"]
    assert newest["variances.log_variance.joints"] != 0
    assert newest["joint_errors.error"][1:].min() > 0
    resumed = Trainer(config)
    resumed.load_state_dict(load_newest(make_output(config) / "states", torch.device("cpu"))[1])
    assert all(torch.equal(value, newest[name]) for name, value in resumed.losses.state_dict().items())
    rows = read_log(make_output(config) / "log.jsonl")
    assert all(float(row["contact_f1_constant"]) > 0 for row in rows)
    assert "diversity" not in rows[0]  # without a weight it is not computed


def make_output(config):
    from pathlib import Path

    return Path(config.train.output)
