"""The loop: it learns, it resumes exactly, it stops where it must."""

import math
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from amt.model import load_checkpoint
from amt.model.checkpoint import load_mean_pose
from amt.model.mean_pose import MeanPose
from amt.train.records import StepLog, read_log
from amt.train.schedule import learning_rate
from amt.train.states import save_state, states
from amt.train.trainer import Trainer, run


def test_a_small_batch_is_learned(make_config, loader):
    """Four noise images by heart: the loss halves and the hand comes within a third of where it began."""
    trainer = Trainer(make_config("overfit", steps=60, warmup_steps=5, lr=2e-3))
    batch = next(iter(loader))
    results = [{k: float(v) for k, v in trainer.train_step(batch).items()} for _ in range(60)]
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
    assert [row["step"] for row in read_log(output / "log.jsonl")] == [3, 4]


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
    rows = read_log(output / "log.jsonl")
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in states(output / "states")] == ["step-00000002", "step-00000003"]
    model, record = load_checkpoint(folder)
    assert record["train"]["steps"] == 3
    assert model.config.size == "tiny"
    assert not list(output.rglob(".tmp-*"))
    expected = MeanPose.of(loader).tensors()
    assert all(torch.equal(value, expected[name]) for name, value in load_mean_pose(folder).tensors().items())


def test_a_time_limit_ends_a_run_with_a_low_learning_rate(make_config, loader, monkeypatch):
    """By a clock of its own, on which a step takes 0.1 s or a little more."""
    ticks = count()
    monkeypatch.setattr("amt.train.trainer.time", SimpleNamespace(perf_counter=lambda: 0.05 * next(ticks)))
    config = make_config("brief", steps=10_000, minutes=6 / 60, lr=1e-3, warmup_steps=1)
    folder = run(config, loader, progress=False)
    rows = read_log(Path(config.train.output) / "log.jsonl")
    assert 20 < len(rows) < 130
    assert float(rows[-1]["lr"]) < 7e-4
    assert load_checkpoint(folder)[1]["steps"] == len(rows)
    assert run(config, loader, progress=False) == folder  # nothing left to do
    assert len(read_log(Path(config.train.output) / "log.jsonl")) == len(rows)


class Reads(TorchDispatchMode):
    """Counts how often the host asks for a tensor's value: on a GPU it would wait for all that was started."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        read = (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.equal.default,
        )
        self.count += function in read
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options", [{"log_every": 2}, {"optimizer": "adamw", "agc": 0.01, "centralize": True, "accumulate": 2}]
)
def test_the_host_reads_nothing_in_a_step_and_once_when_it_logs(make_config, loader, tmp_path, options):
    trainer = Trainer(make_config("reads", **options))
    batch = next(iter(loader))
    steps = StepLog(tmp_path / "log.jsonl", 0)
    with Reads() as control:
        torch.ones(()).item()
    assert control.count == 1
    with Reads() as reads:
        for step in range(3):
            steps.add(step=step, **trainer.train_step(batch))
    assert reads.count == 0
    rows = steps.flush()
    assert all(isinstance(value, (int, float)) for row in rows for value in row.values())
    assert len({row["loss"] for row in rows}) == 3


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 1.0, 0.1, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert 0.1 < rates[-1] < 0.11
    assert learning_rate(0, 1, 1.0, 0.1, 0) == 1.0
