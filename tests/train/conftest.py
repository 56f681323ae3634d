import numpy as np
import pytest

from amt.config import KernelsConfig
from amt.data.config import DataConfig
from amt.model import ModelConfig
from amt.train.config import Config, TrainConfig


class FixedLoader:
    """A loader's interface over batches that are made, not read: the rows depend on (seed, epoch) as in the real one."""

    def __init__(self, batch, batch_size):
        self.all, self.batch_size, self.epoch, self.first_batch = batch, batch_size, 0, 0

    def __len__(self):
        return self.all.inputs.batch_size // self.batch_size

    def set_epoch(self, epoch, first_batch=0):
        self.epoch, self.first_batch = epoch, first_batch

    def __iter__(self):
        order = np.random.default_rng([0, self.epoch]).permutation(self.all.inputs.batch_size)
        for k in range(self.first_batch, len(self)):
            yield self.all[order[k * self.batch_size : (k + 1) * self.batch_size]]


@pytest.fixture
def loader(make_batch):
    return FixedLoader(make_batch(8, left=True), 4)


@pytest.fixture
def make_config(tmp_path):
    """``make_config(name, steps=..., model={...}, ...)``: a short run into a folder of that name."""

    def make(name, model=None, **train):
        settings = {"steps": 4, "batch_size": 4, "warmup_steps": 2, "save_every": 2, "device": "cpu", **train}
        output = str(tmp_path / name)
        return Config(
            ModelConfig(**(model or {})), DataConfig(), TrainConfig(output=output, **settings), KernelsConfig()
        )

    return make
