"""What a run writes down: JSON lines, one line a log interval, and what the figures in it mean."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fixed_loader import SMALL
from torch import nn

from amt.model import AMT, ModelConfig
from amt.train.config import TrainConfig
from amt.train.gradients import group_norms
from amt.train.loggers import TENSORBOARD, Loggers
from amt.train.records import JsonLines, mean_rows, read_log, smoothed
from amt.train.run_log import duration, step_line
from amt.train.throughput import Throughput, peak_flops, training_flops
from amt.train.trainer import Trainer, run

CPU = torch.device("cpu")


def test_a_number_that_is_not_finite_is_null_in_json(tmp_path):
    path = tmp_path / "log.jsonl"
    JsonLines(path, 0).append([{"step": 0, "loss": math.inf, "spread": 0.123456789}, {"step": 1, "loss": math.nan}])
    strict = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert strict == read_log(path) == [{"step": 0, "loss": None, "spread": 0.123457}, {"step": 1, "loss": None}]


def test_an_older_versions_table_stays_and_is_named(tmp_path, caplog):
    (tmp_path / "log.csv").write_text("step,loss\n0,1\n")
    JsonLines(tmp_path / "log.jsonl", 1)
    assert "log.csv is an older version's and stays as it is; log.jsonl goes on" in caplog.text
    assert (tmp_path / "log.csv").read_text() == "step,loss\n0,1\n"


def test_a_mean_leaves_skipped_steps_out():
    rows = [{"step": 3, "loss": 2.0, "skipped": 0.0}, {"step": 4, "loss": math.nan, "skipped": 1.0}]
    assert mean_rows([*rows, {"step": 5, "loss": 4.0, "skipped": 1.0}]) == {"step": 5, "loss": 3.0, "skipped": 1.0}


def test_a_step_without_a_finite_loss_leaves_the_curve_whole():
    values = np.array([math.nan, 2.0, 4.0, math.nan, 6.0, 8.0])
    np.testing.assert_allclose(smoothed(values, 3), [math.nan, 2, 3, 3, 5, 7])
    np.testing.assert_allclose(smoothed(np.arange(200.0))[-1], 174.5)  # of steps 150 to 199
    assert len(smoothed(np.array([]))) == 0


def test_groups_have_the_norms_of_their_gradients(make_small, small_loader):
    trainer = Trainer(make_small("norms", log_every=1, clip_norm=1e9))
    result = trainer.train_step(next(iter(small_loader)))
    norms = {name: float(value) for name, value in result.items() if name.startswith("grad_norm/")}
    assert set(norms) == {"grad_norm/new", "grad_norm/heads", "grad_norm/muon"}
    assert math.hypot(*norms.values()) == pytest.approx(float(result["grad_norm"]), rel=1e-4)
    idle = nn.Parameter(torch.ones(2))
    assert group_norms({"idle": [idle]}) == {}


def test_a_line_has_what_the_run_is_doing(make_small, small_loader, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "memory", lambda self: "")
    run(make_small("lines", steps=4, log_every=2), small_loader)
    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert first.startswith("step 2/4  loss ")
    assert second.startswith("step 4/4  loss ")
    for part in (
        " lr ",
        " gradient ",
        " (new ",
        "heads ",
        "muon ",
        " images/s ",
        " wait ",
        " GB ",
        " left ",
        " joints ",
    ):
        assert part in first, part
    assert "MFU" not in first  # nobody knows the peak of a CPU


def test_a_line_says_mfu_and_skipped_steps():
    figures = {"step": 19, "loss": 3.14159, "lr": 1e-3, "grad_norm": 2.0, "images_per_second": 512.4, "data_wait": 0.03}
    figures |= {"memory_gb": 1.5, "mfu": 0.417, "skipped": 2.0, "spread": 0.5, "joints": 0.25, "grad_norm/new": 1.9}
    assert step_line(figures, 100, ["joints", "pose"], 4000.0) == (
        "step 20/100  loss 3.14  lr 1.0e-03  gradient 2 (new 1.9)  512 images/s  wait 3 %  MFU 41.7 %  1.50 GB  67 min left  "
        "skipped 2  spread 0.5  joints 0.25"
    )
    assert [duration(s) for s in (45, 130, 11_100)] == ["45 s", "2 min", "3 h 05 min"]


def test_waiting_mfu_and_the_time_left_are_counted_by_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow():
        for item in "ab":
            now[0] += 1.0
            yield item

    clock = Throughput(8, CPU, flops=lambda: 1e9, peak=1e10)
    assert clock.left(10) is None
    for _ in clock.waiting(slow()):
        now[0] += 3.0
    figures = clock.interval(2)
    assert (figures["seconds"], figures["images_per_second"], figures["data_wait"]) == (4.0, 2.0, 0.25)
    assert figures["mfu"] == pytest.approx(0.2)  # 2 images a second of 1 GFLOP, at 10 GFLOP/s
    assert figures["memory_gb"] > 0.05
    assert (clock.left(10), clock.left(10, seconds=15.0)) == (40.0, 15.0)
    now[0] += 100.0  # a validation
    clock.restart()
    now[0] += 4.0
    assert clock.interval(1)["seconds"] == 4.0


def test_a_training_step_is_three_forward_passes_where_everything_is_trained():
    model = AMT(ModelConfig(**SMALL))
    forward = model.summary(2).total.flops
    count = training_flops(model)
    assert count() == pytest.approx(3 * forward)
    model.fusion.requires_grad_(False)
    fusion = next(part.flops for part in model.summary(2).modules if part.name == "fusion")
    assert count() == pytest.approx(3 * forward - 2 * fusion)


@pytest.mark.parametrize(
    ("name", "bf16", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989.4),
        ("NVIDIA H100 PCIe", True, 756.4),
        ("NVIDIA H200", True, 989.4),
        ("NVIDIA A100-SXM4-80GB", False, 19.5),
        ("NVIDIA GeForce RTX 4090", True, None),
    ],
)
def test_peaks_are_of_the_data_sheets_or_not_told(monkeypatch, name, bf16, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    peak = peak_flops(torch.device("cuda"), bf16)
    assert peak == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert peak_flops(CPU, True) is None


def test_tensorboard_has_every_figure(make_small, small_loader):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_small("board", steps=4, log_every=2, logger="auto")
    run(config, small_loader, progress=False)
    events = EventAccumulator(str(Path(config.train.output) / TENSORBOARD)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 3]
    losses = [row["loss"] for row in read_log(Path(config.train.output) / "log.jsonl")]
    assert events.Scalars("train/loss")[1].value == pytest.approx((losses[2] + losses[3]) / 2, rel=1e-4)
    assert {"train/joints", "train/lr", "grad_norm/heads", "speed/data_wait"} <= set(events.Tags()["scalars"])


class Offline:
    """A tracker's library without network: it starts, and fails at the second call."""

    def __init__(self):
        self.calls = []

    def init(self, **options):
        self.calls.append(options["project"])

    def log(self, figures, step):
        self.calls.append((step, figures))
        if step > 0:
            raise ConnectionError("no network")

    def finish(self):
        raise AssertionError("it has been left out")


def test_a_logger_that_fails_is_left_out_with_one_line(tmp_path, monkeypatch, caplog):
    library = Offline()
    monkeypatch.setitem(__import__("sys").modules, "trackio", library)
    loggers = Loggers(["trackio", "wandb"], tmp_path, {}, 0)  # wandb is not installed
    for step in range(3):
        loggers.scalars(step, {"loss": 1.5, "spread": math.nan, "step": step})
    loggers.close()
    assert library.calls == ["amt", (0, {"loss": 1.5}), (1, {"loss": 1.5})]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "train.logger=wandb is left out from here on: No module named 'wandb'; pip install wandb",
        "train.logger=trackio is left out from here on: no network",
    ]


def test_an_unknown_logger_is_one_line():
    with pytest.raises(ValueError, match=r"train\.logger must be of auto, none, tensorboard, wandb, trackio, .*'disk'"):
        TrainConfig(logger=["tensorboard", "disk"])
