"""SIGKILL at ten random moments loses nothing. `python -m tools.kill_training` does fifty, with the real loader."""

import multiprocessing

import pytest
import torch

from tools.kill_training import kill_often


def kill_ten_times(config, loader, out, results):
    torch.set_num_threads(1)
    results.put(kill_often(config, loader, out, kills=10, seed=1))


def test_ten_kills_lose_nothing(tmp_path, make_small_run):
    """In a process of its own: a fork of this one could inherit threads that wait for each other."""
    config, loader = make_small_run(steps=60)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=kill_ten_times, args=(config, loader, tmp_path / "out", results))
    process.start()
    outcome = results.get(timeout=300)
    process.join()
    assert outcome.unreadable == []
    assert outcome.different == []
    assert outcome.log_is_whole
    assert outcome.kills == 10


@pytest.fixture
def make_small_run(make_batch):
    from fixed_loader import SMALL, FixedLoader

    from amt.config import KernelsConfig
    from amt.data.config import CropConfig, DataConfig
    from amt.model import ModelConfig
    from amt.train.config import Config, TrainConfig

    def make(steps):
        train = TrainConfig(steps=steps, batch_size=2, warmup_steps=2, save_every=1, keep=3, device="cpu", threads=1)
        config = Config(ModelConfig(**SMALL), DataConfig(crop=CropConfig(size=32)), train, KernelsConfig())
        return config, FixedLoader(make_batch(6, crop=32, points=16), 2)

    return make
