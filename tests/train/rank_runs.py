"""Runs of a small model for test_ranks.py, in one process there and in two here: ``torchrun … rank_runs.py FOLDER``."""

import os
import shutil
import signal
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from fixed_loader import SMALL, Varied  # noqa: E402

from amt.config import KernelsConfig  # noqa: E402
from amt.data.config import CropConfig, DataConfig  # noqa: E402
from amt.data.loader import Loader  # noqa: E402
from amt.model import ModelConfig  # noqa: E402
from amt.train import trainer as trainer_module  # noqa: E402
from amt.train.config import Config, LossConfig, TrainConfig  # noqa: E402
from amt.train.signals import Stopped  # noqa: E402

BATCH, STEPS, SAVED = 4, 6, 3
LOSS = {"adaptive": True, "uncertainty": True, "diversity": 0.3, "joint_limits": 0.1, "penetration": 1.0}
OPTIONS = {
    "steps": STEPS, "save_every": SAVED, "batch_size": BATCH, "accumulate": 2, "agc": 0.05, "centralize": True, "ema": 0.9,
    "warmup_steps": 2, "keep": 9, "log_every": 1, "logger": "none", "device": "cpu", "threads": 1,
}  # fmt: skip


def train(folder, name, parallel="none", **options):
    """A run into ``folder/name``, with the frames of ``folder/frames.pt``."""
    world, rank = (int(os.environ[k]) if parallel != "none" else v for k, v in (("WORLD_SIZE", 1), ("RANK", 0)))
    model = ModelConfig(**SMALL, drop_path=0.3)
    options = {**OPTIONS, "output": str(folder / name), "parallel": parallel, **options}
    config = Config(
        model, DataConfig(crop=CropConfig(size=32)), TrainConfig(loss=LossConfig(**LOSS), **options), KernelsConfig()
    )
    frames = Varied(torch.load(folder / "frames.pt", weights_only=False))
    trainer_module.make_loader = lambda *_, **__: Loader(frames, BATCH)
    trainer_module.draw_curves = lambda *_: None
    loader = Loader(frames, BATCH // world, shuffle=True, rank=rank, world_size=world)
    return trainer_module.run(config, loader, progress=False)


def go_on(folder, name, parallel):
    """A run into ``folder/name-parallel`` that goes on from the state of another one in its middle."""
    if os.environ.get("RANK", "0") == "0":
        state = Path("states", f"step-{SAVED:08d}")
        shutil.copytree(folder / name / state, folder / f"{name}-{parallel}" / state, dirs_exist_ok=True)
    return train(folder, f"{name}-{parallel}", parallel)


def at_step(step, act):
    """Calls ``act`` before a step of the runs that come."""
    right = trainer_module.Trainer.train_step

    def train_step(self, batch):
        if self.step == step:
            act()
        return right(self, batch)

    trainer_module.Trainer.train_step = train_step
    return right


def main(folder):
    attempt, second = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), os.environ["RANK"] == "1"
    for parallel in ("ddp", "fsdp"):
        train(folder, parallel, parallel)
        go_on(folder, "one", parallel)
    go_on(folder, "ddp", "fsdp")

    right = at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM) if second else None)
    try:
        train(folder, "stopped", "fsdp")
    except Stopped as stopped:
        (folder / f"stopped-{os.environ['RANK']}").write_text(f"{stopped.code} {stopped.step}")
    trainer_module.Trainer.train_step = right
    train(folder, "stopped", "fsdp")

    if second and attempt == 0:
        at_step(SAVED + 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train(folder, "killed", "ddp")
    (folder / "attempts").write_text(str(attempt + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
