import pytest
from fixed_loader import SMALL, FixedLoader

from amt.config import KernelsConfig
from amt.data.config import CropConfig, DataConfig
from amt.model import ModelConfig
from amt.train.config import Config, TrainConfig


@pytest.fixture
def loader(make_batch):
    return FixedLoader(make_batch(8, left=True), 4)


@pytest.fixture
def make_config(tmp_path):
    """``make_config(name, steps=..., model={...}, ...)``: a short run into a folder of that name."""

    def make(name, model=None, **train):
        settings = {"steps": 4, "batch_size": 4, "warmup_steps": 2, "save_every": 2, "device": "cpu"}
        settings |= {"logger": "none", **train}
        output = str(tmp_path / name)
        chosen = ModelConfig(**(model or {}))
        data = DataConfig(crop=CropConfig(size=chosen.crop_size))
        return Config(chosen, data, TrainConfig(output=output, **settings), KernelsConfig())

    return make


@pytest.fixture
def small_loader(make_batch):
    """Like ``loader``, for the runs of ``make_small``."""
    return FixedLoader(make_batch(8, crop=32, points=32, left=True), 4)


@pytest.fixture
def make_small(make_config):
    """``make_config`` for a model that trains in milliseconds."""

    def make(name, model=None, **train):
        return make_config(name, model={**SMALL, **(model or {})}, **train)

    return make
