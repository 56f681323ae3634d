"""A poisoned batch changes nothing but a counter; many in a row end the run and are explained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from amt.train.records import read_log
from amt.train.trainer import Trainer, TrainingError, run

NAN, INF = float("nan"), float("inf")


def poisoned(batch, kind, row=-1):
    """A copy of a batch in which one sample is broken."""
    batch = batch.map(torch.clone)
    if kind == "image":  # a NaN needs a type that holds it
        batch = replace(batch, inputs=replace(batch.inputs, image=batch.inputs.image.float()))
        batch.inputs.image[row, 0, 5, 5] = NAN
    elif kind == "label":
        batch.targets.joints[row, 3, 1] = INF
    else:
        batch.inputs.intrinsics[row, 0, 0] = 0
    return batch


def flat(state, prefix=""):
    """All tensors in a tree of dicts and lists, cloned, by path."""
    found = {}
    for name, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value.clone()
        elif isinstance(value, (dict, list)):
            found |= flat(value, f"{prefix}{name}.")
    return found


def differing(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("kind", ["image", "label", "focal"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "optimizer": "adamw", "agc": 0.01, "centralize": True}])
def test_a_poisoned_batch_changes_nothing_but_a_counter(make_small, small_loader, kind, options):
    """Parameters, average, moments and batch norms are those of a run that left the batch out, then and a step later."""
    trainer, other = (Trainer(make_small("same", steps=9, warmup_steps=1, **options)) for _ in range(2))
    batches = list(small_loader)
    for each in (trainer, other):
        each.train_step(batches[0])
    result = trainer.train_step(poisoned(batches[1], kind))
    other.step += 1
    counts = ["guard.in_a_row", "guard.skipped"]
    assert differing(trainer.state_dict(), other.state_dict()) == counts
    assert [float(result[name]) for name in ("bad_steps", "skipped")] == [1, 1]
    before = flat(trainer.state_dict())
    assert any("running_mean" in name for name in before)
    for each in (trainer, other):
        last = each.train_step(batches[1])
    assert differing(trainer.state_dict(), other.state_dict()) == ["guard.skipped"]
    assert [float(x) for x in (last["bad_steps"], trainer.guard.skipped)] == [0, 1]
    moved = {
        name.split(".")[0] for name, value in flat(trainer.state_dict()).items() if not torch.equal(value, before[name])
    }
    assert moved == {"model", "losses", "optimizers", "ema", "guard"}


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too(make_small, small_loader, monkeypatch):
    trainer = Trainer(make_small("same"))
    batch, right = next(iter(small_loader)), trainer.loss

    def infinite(part, step):
        loss, prediction = right(part, step)
        return loss._replace(total=loss.total + INF), prediction

    monkeypatch.setattr(trainer, "loss", infinite)
    before = flat(trainer.state_dict()["model"])
    assert float(trainer.train_step(batch)["skipped"]) == 1
    assert not differing(trainer.state_dict()["model"], before)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (
            "image",
            r"the batch's inputs\.image; the first module is normalize; the loss terms are .*joints.*; samples 7\b",
        ),
        ("label", r"the batch's targets\.joints; the loss terms are joints, projection.*; samples 7\b"),
        ("focal", r"the batch's inputs\.intrinsics have a focal length of 0; the first module is .*; samples 7\b"),
    ],
)
def test_many_poisoned_batches_end_the_run_with_their_names(make_small, small_loader, kind, named):
    small_loader.all = poisoned(small_loader.all, kind)
    small_loader.all = small_loader.all[[7, 0, 1, 2]]  # one batch an epoch
    config = make_small("bad", steps=30, save_every=100, bad_steps=3, log_every=4)
    with pytest.raises(TrainingError, match=rf"step 3: 4 steps in a row without a finite loss and gradient .*{named}"):
        run(config, small_loader, progress=False)
    rows = read_log(Path(config.train.output) / "log.jsonl")
    assert [row["skipped"] for row in rows] == [1, 2, 3, 4]


def test_a_module_that_overflows_is_named(make_small, small_loader):
    trainer = Trainer(make_small("bad"))
    with torch.no_grad():
        trainer.model.fusion.blocks[0].mlp.fc1.weight.fill_(1e30)
        trainer.model.fusion.blocks[0].mlp.fc2.weight.fill_(1e30)
    batch = next(iter(small_loader))
    trainer.train_step(batch)
    assert "the first module is fusion.blocks.0.mlp.fc2; " in trainer.explain(batch)


def test_a_backward_pass_that_overflows_is_named(make_small, small_loader):
    trainer = Trainer(make_small("bad"))

    def overflow(module, inputs, output):
        output.register_hook(lambda grad: grad * INF)

    trainer.model.neck.low.register_forward_hook(overflow)
    batch = next(iter(small_loader))
    assert float(trainer.train_step(batch)["bad_steps"]) == 1
    assert "the first gradient in the backward pass is neck.low's; samples" in trainer.explain(batch)
