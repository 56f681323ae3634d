"""train.batch_size=auto: by the estimate on a CPU, by trial on a GPU, once for a run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from amt.config import ConfigError, compose
from amt.model import load_checkpoint
from amt.train import batch_size
from amt.train.batch_size import find, free_memory, made_batch, sized
from amt.train.config import PROGRAM, Config
from amt.train.memory import Memory
from amt.train.signals import Stopped
from amt.train.trainer import Trainer, run

MB = 1_000_000


class Measured:
    """A trainer of which only the memory counts: 100 MB, and 5 MB an image of a micro-batch; 8 MB an image in truth."""

    truth = 8 * MB

    def __init__(self, config, device="cpu"):
        self.config, self.device = config, torch.device(device)
        self.model = SimpleNamespace(mano=SimpleNamespace(num_vertices=4))

    def memory(self):
        images = self.config.train.batch_size // self.config.train.accumulate
        return Memory(40 * MB, 20 * MB, 30 * MB, 10 * MB, 5 * MB * images, images)

    def train_step(self, batch):
        if 100 * MB + len(batch.index) * self.truth > free_memory(self.device):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"loss": torch.tensor(1.0)}


@pytest.fixture
def free(monkeypatch):
    return lambda count: monkeypatch.setattr(batch_size, "free_memory", lambda _: count)


@pytest.mark.parametrize(
    ("megabytes", "options", "expected"),
    [
        (2000, {}, 128),  # half of it holds 900 / 5 = 180 images
        (200_000, {}, 512),
        (210, {}, 1),
        (2000, {"accumulate": 3}, 384),  # 128 a micro-batch
    ],
)
def test_on_a_cpu_half_of_the_free_memory_is_filled(make_small, free, megabytes, options, expected):
    free(megabytes * MB)
    assert find(make_small("auto", batch_size="auto", **options), Measured) == expected


def test_a_batch_is_not_larger_than_the_set_that_was_asked_for(make_small, free):
    free(200_000 * MB)
    config = make_small("auto", batch_size="auto")
    assert find(replace(config, data=replace(config.data, limit=40)), Measured) == 32


def test_windows_stay_whole(free):
    free(2000 * MB)
    config = Config(**compose(PROGRAM, ["train.batch_size=auto", "data.window=3", "train.accumulate=2"]))
    assert find(config, Measured) == 192  # 6, doubled
    assert sized(config, 192).train.batch_size == 192


def test_a_gpu_is_asked_where_the_estimate_is_too_bold(make_small, free, monkeypatch):
    free(2000 * MB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(f"{__name__}.free_memory", lambda _: 2000 * MB)
    config = make_small("auto", batch_size="auto")
    tried = []

    class Gpu(Measured):
        def __init__(self, config):
            super().__init__(config, "cuda")

        def train_step(self, batch):
            tried.append(len(batch.index))
            return super().train_step(batch)

    assert find(config, Gpu) == 128  # 0.9 x 2000 MB: 256 by the estimate, 237 in truth
    assert tried == [256, 128, 128]


def test_too_little_memory_is_one_line(make_small, free):
    free(100 * MB)
    with pytest.raises(
        ConfigError, match=r"auto: not even 1 images fit into 0\.1 GB of free memory; take a smaller model"
    ):
        find(make_small("auto", batch_size="auto"), Measured)


def test_a_step_goes_through_on_the_made_batch(make_small):
    trainer = Trainer(make_small("made"))
    assert float(trainer.train_step(made_batch(2, 32, 32, trainer))["loss"]) > 0
    assert float(trainer.guard.skipped) == 0


def test_a_run_keeps_what_was_found(make_small, small_loader, monkeypatch, caplog):
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    monkeypatch.setattr(batch_size, "MOST", 4)
    caplog.set_level("INFO")
    right = Trainer.train_step

    def stopped(self, batch):
        if self.step == 1:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return right(self, batch)

    config = make_small("run", steps=3, batch_size="auto")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped)
        with pytest.raises(Stopped):
            run(config, small_loader, progress=False)
    assert "train.batch_size=auto: 4 images a step" in caplog.text
    monkeypatch.setattr(batch_size, "find", lambda *_: pytest.fail("found a second time"))
    folder = run(config, small_loader, progress=False)
    assert load_checkpoint(folder)[1]["train"]["batch_size"] == 4
    assert run(config, small_loader, progress=False) == folder  # finished
    assert Path(config.train.output, "checkpoint") == folder


@pytest.mark.parametrize("value", ["many", "0", "-3", "true"])
def test_another_word_is_refused(value):
    with pytest.raises(
        ConfigError, match=r"train\.batch_size must be a whole number, at least 1, or auto; got|batch_size: Value"
    ):
        compose(PROGRAM, [f"train.batch_size={value}"])


def test_main_memory_is_what_is_available_here():
    assert 0 < free_memory(torch.device("cpu")) < 1 << 50
