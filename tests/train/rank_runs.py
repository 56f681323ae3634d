"""Runs of a small model for test_ranks.py, in one process there and in two here: ``torchrun … rank_runs.py FOLDER``."""

import json
import os
import shutil
import signal
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from fixed_loader import SMALL, Varied  # noqa: E402

from amt.config import KernelsConfig  # noqa: E402
from amt.data.config import CropConfig, DataConfig  # noqa: E402
from amt.data.loader import Loader  # noqa: E402
from amt.model import ModelConfig  # noqa: E402
from amt.train import ranks  # noqa: E402
from amt.train import trainer as trainer_module  # noqa: E402
from amt.train.config import Config, LossConfig, TrainConfig  # noqa: E402
from amt.train.sight import evaluating  # noqa: E402
from amt.train.signals import Stopped  # noqa: E402
from amt.train.states import read_state  # noqa: E402
from amt.train.validation import validate  # noqa: E402

BATCH, STEPS, SAVED = 4, 6, 3
LOSS = {"adaptive": True, "uncertainty": True, "diversity": 0.3, "joint_limits": 0.1, "penetration": 1.0}
OPTIONS = {
    "steps": STEPS, "save_every": SAVED, "batch_size": BATCH, "accumulate": 2, "agc": 0.05, "centralize": True, "ema": 0.9,
    "warmup_steps": 2, "keep": 9, "log_every": 1, "logger": "none", "device": "cpu", "threads": 1, "validate_every": SAVED,
    "pictures_every": 0,
}  # fmt: skip
VALIDATED = [0, 1, 2, 3, 4, 5, 6, 8, 9]  # a last batch of one frame: a rank has none of it. Frame 7 is not finite
DINOV2 = {"crop_size": 28, "backbone": {"name": "dinov2-small", "depth": 2}}
STAGES = [[0, 2], [2, 0], [4, 1]]  # train.freeze: all, nothing, the first block


def made(folder, name, parallel, model=None, **options):
    """The configuration of a run into ``folder/name``, and this rank's loaders of ``folder/frames-SIZE.pt``."""
    world, rank = (int(os.environ[k]) if parallel != "none" else v for k, v in (("WORLD_SIZE", 1), ("RANK", 0)))
    # without the pose search: rounding, which differs between ranks, decides which of two like poses goes on
    model = ModelConfig(**{**SMALL, "drop_path": 0.3, "pose_search": False, **(model or {})})
    options = {**OPTIONS, "output": str(folder / name), "parallel": parallel, **options}
    data = DataConfig(crop=CropConfig(size=model.crop_size))
    config = Config(model, data, TrainConfig(loss=LossConfig(**LOSS), **options), KernelsConfig())
    frames = Varied(torch.load(folder / f"frames-{model.crop_size}.pt", weights_only=False))
    share = {"rank": rank, "world_size": world}
    loader = Loader(frames, BATCH // world, shuffle=True, **share)
    return config, loader, Loader(frames, BATCH // world, chosen=VALIDATED, **share)


def train(folder, name, parallel="none", model=None, **options):
    config, loader, validation = made(folder, name, parallel, model, **options)
    trainer_module.make_loader = lambda *_, **__: Loader(loader.dataset, BATCH)
    trainer_module.draw_curves = lambda *_: None
    return trainer_module.run(config, loader, progress=False, validation=validation)


def figures(folder, parallel):
    """Of the state in the middle of the run "one"."""
    config, _, validation = made(folder, "one", parallel)
    device = torch.device("cpu")
    with ranks.joined(parallel, device):
        trainer = trainer_module.Trainer(config)
        trainer.load_state_dict(read_state(folder / "one" / "states" / f"step-{SAVED:08d}", device))
        with evaluating(trainer):
            return validate(trainer, validation)


def train_in_stages(folder, parallel="none"):
    """A run whose backbone is frozen, thawed and frozen in part."""
    if find_spec("transformers") is None:
        return None
    warnings.filterwarnings("ignore", ".*starts at random")
    return train(folder, f"stages-{parallel}", parallel, DINOV2, freeze=STAGES, validate_every=0)


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
        train(folder, parallel, parallel, pictures_every=STEPS)
        go_on(folder, "one", parallel)
        train_in_stages(folder, parallel)
        (folder / f"figures-{parallel}-{os.environ['RANK']}").write_text(json.dumps(figures(folder, parallel)))
    go_on(folder, "ddp", "fsdp")
    go_on(folder, "fsdp", "ddp")

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
