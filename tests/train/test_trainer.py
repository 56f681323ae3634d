"""The loop: it learns, it resumes exactly, it stops where it must."""

import math
from pathlib import Path

import pytest
import torch

from amt.model import load_checkpoint
from amt.train.records import read_log
from amt.train.schedule import learning_rate
from amt.train.states import StateError, load_newest, save_state, states
from amt.train.trainer import Trainer, TrainingError, run


def test_a_small_batch_is_learned(make_config, loader):
    """Four noise images by heart: the loss halves and the hand comes within a third of where it began."""
    trainer = Trainer(make_config("overfit", steps=60, warmup_steps=5, lr=2e-3))
    batch = next(iter(loader))
    results = [trainer.train_step(batch) for _ in range(60)]
    assert all(math.isfinite(value) for result in results for value in result.values())
    assert results[-1]["loss"] < 0.5 * results[0]["loss"]
    assert results[-1]["joints"] < 0.4 * results[0]["joints"]


def test_a_resumed_run_ends_with_the_same_weights(make_config, loader):
    """Stopped in the middle of an epoch and taken up again: the same weights, bit by bit, and one line a step in the log."""
    whole = run(make_config("whole", steps=5), loader, progress=False)
    config = make_config("parts", steps=5)
    first = Trainer(config)
    for _, batch in zip(range(3), _endless(loader)):
        first.train_step(batch)
    output = Path(config.train.output)
    save_state(output / "states", 3, first.state_dict(), keep=1)
    parts = run(config, loader, progress=False)
    a, b = (load_checkpoint(folder)[0].state_dict() for folder in (whole, parts))
    assert not [name for name in a if not torch.equal(a[name], b[name])]
    assert [row["step"] for row in read_log(output / "log.csv")] == ["3", "4"]


def _endless(loader):
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def test_a_run_leaves_a_checkpoint_a_log_and_a_picture(make_config, loader):
    config = make_config("whole", steps=3)
    folder = run(config, loader, progress=False)
    output = Path(config.train.output)
    rows = read_log(output / "log.csv")
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in states(output / "states")] == ["step-00000002", "step-00000003"]
    model, record = load_checkpoint(folder)
    assert record["train"]["steps"] == 3
    assert model.config.size == "tiny"
    assert not list(output.rglob("*.tmp"))


def test_a_time_limit_ends_a_run_with_a_low_learning_rate(make_config, loader):
    config = make_config("brief", steps=10_000, minutes=6 / 60, lr=1e-3, warmup_steps=1)
    folder = run(config, loader, progress=False)
    rows = read_log(Path(config.train.output) / "log.csv")
    assert 1 < len(rows) < 1000
    assert float(rows[-1]["lr"]) < 7e-4
    assert load_checkpoint(folder)[1]["steps"] == len(rows)
    assert run(config, loader, progress=False) == folder  # nothing left to do
    assert len(read_log(Path(config.train.output) / "log.csv")) == len(rows)


def test_states_of_another_model_are_refused(make_config, loader):
    run(make_config("same", steps=1), loader, progress=False)
    with pytest.raises(StateError, match="states of another model"):
        run(make_config("same", model={"refine_steps": 1}, steps=2), loader, progress=False)


def test_states_of_another_optimizer_are_refused(make_config, loader):
    run(make_config("same", steps=1), loader, progress=False)
    with pytest.raises(
        StateError, match=r"another optimizer than train\.optimizer=adamw; choose another train\.output"
    ):
        run(make_config("same", optimizer="adamw", steps=2), loader, progress=False)
    trainer = Trainer(make_config("older"))
    state = trainer.state_dict()
    state["optimizer"] = state.pop("optimizers")[0]  # as it was saved before Muon came
    with pytest.raises(StateError, match="another optimizer"):
        trainer.load_state_dict(state)


def test_the_newest_readable_state_wins(tmp_path):
    device = torch.device("cpu")
    assert load_newest(tmp_path, device) is None
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"x": torch.tensor(step)}, keep=2)
    assert [path.name for path in states(tmp_path)] == ["step-00000002", "step-00000003"]
    newest = tmp_path / "step-00000003" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:50])
    step, state = load_newest(tmp_path, device)
    assert (step, int(state["x"])) == (2, 2)
    (tmp_path / "step-00000002" / "state.pt").write_bytes(b"")
    with pytest.raises(StateError, match="none of 2 states can be read"):
        load_newest(tmp_path, device)


def test_a_state_cannot_run_code(tmp_path):
    import os

    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    save_state(tmp_path, 1, {"x": Harmful()}, keep=1)
    with pytest.raises(StateError):
        load_newest(tmp_path, torch.device("cpu"))
    assert not (tmp_path / "ran").exists()


def test_a_step_without_a_finite_gradient_changes_nothing(make_config, loader):
    trainer = Trainer(make_config("bad"))
    batch = next(iter(loader))
    batch.targets.joints[:] = float("nan")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train_step(batch)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.named_parameters())
    trainer.bad_steps = 19
    with pytest.raises(TrainingError, match=r"20 steps without a finite gradient; lower train\.lr"):
        trainer.train_step(batch)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 1.0, 0.1, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert 0.1 < rates[-1] < 0.11
    assert learning_rate(0, 1, 1.0, 0.1, 0) == 1.0
