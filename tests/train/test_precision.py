"""train.precision=auto: bfloat16 where the device computes in it, once for a run."""

import signal

import pytest
import torch

from amt.model import load_checkpoint
from amt.train import precision
from amt.train.config import ConfigError, TrainConfig
from amt.train.precision import suited, with_precision
from amt.train.signals import Stopped
from amt.train.trainer import Trainer, run

CPU = torch.device("cpu")


@pytest.mark.parametrize(("slow", "chosen"), [(True, "float32"), (False, "bf16")])
def test_a_cpu_has_what_it_computes_in(make_small, monkeypatch, slow, chosen):
    monkeypatch.setattr(precision, "bfloat16_is_slow", lambda device: slow)
    assert suited(CPU) == chosen
    assert with_precision(make_small("auto", precision="auto"), None, CPU).train.precision == chosen


def test_what_is_said_stays(make_small):
    config = make_small("said", precision="float32")
    assert with_precision(config, {"run": {"train.precision": "bf16"}}, CPU) is config


def test_a_run_that_continues_on_another_machine_keeps_its_precision(make_small, monkeypatch, caplog):
    config = make_small("moved", steps=4, save_every=2, precision="auto")
    slow = iter((True,))
    monkeypatch.setattr(precision, "bfloat16_is_slow", lambda device: next(slow))  # asked once
    step = Trainer.train_step

    def interrupted(self, batch):
        if self.step == 3:
            raise Stopped(signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(Stopped):
        run(config)
    monkeypatch.setattr(Trainer, "train_step", step)
    folder = run(config)
    assert load_checkpoint(folder)[1]["train"]["precision"] == "float32"


def test_other_words_are_named():
    with pytest.raises(ConfigError, match=r"train\.precision must be one of auto, float32"):
        TrainConfig(precision="half")
