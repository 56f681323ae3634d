"""``train.batch_size=auto``: how many images fit, found once before a run; a run that continues keeps what was found."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amt.hand.batch import Batch, Inputs, Targets
from amt.model.config import ConfigError
from amt.model.summary import fake_inputs
from amt.train.config import AUTO, Config

if TYPE_CHECKING:
    from amt.train.trainer import Trainer

log = logging.getLogger(__name__)
MOST = 512  # images: more of them learn less each, and the rates are not made for it
CPU_SHARE, GPU_SHARE = 0.5, 0.9  # of the memory that is free; a CPU's belongs to the loader and to other programs, too
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def with_batch_size(config: Config, state: dict[str, Any] | None, new_trainer: Callable[[Config], Trainer]) -> Config:
    """The configuration with a number in place of ``auto``: the saved state's, or the one that is found now.

    Args:
        state: of the run that continues; None for a new one.
        new_trainer: makes a trainer; its memory is estimated, and on a GPU it does a step on trial.

    Raises:
        ConfigError: not even the smallest batch fits.
    """
    if config.train.batch_size != AUTO:
        return config
    size = (state or {}).get("run", {}).get("train.batch_size")
    if size is None:
        size = find(config, new_trainer)
        log.info("train.batch_size=auto: %d images a step; a run that continues keeps this number", size)
    return sized(config, size)


def sized(config: Config, size: int) -> Config:
    return replace(config, train=replace(config.train, batch_size=size))


def find(config: Config, new_trainer: Callable[[Config], Trainer]) -> int:
    """The largest batch of 512 images (``data.limit``) or fewer that fits: the smallest possible one, doubled again and again.

    On a CPU by the estimate of a step's memory. On a GPU the estimate is where trials begin: a step that runs out of memory
    halves the batch.
    """
    least = config.train.accumulate * config.data.window
    trainer = new_trainer(sized(config, least))
    cuda = trainer.device.type == "cuda"
    free, share = free_memory(trainer.device), GPU_SHARE if cuda else CPU_SHARE
    memory = trainer.memory()
    del trainer
    an_image = memory.activations / memory.images
    room = share * free - (memory.total - memory.activations)
    size, most = least, MOST if config.data.limit is None else min(MOST, config.data.limit)
    while size * 2 <= most and size * 2 // config.train.accumulate * an_image <= room:
        size *= 2
    if not cuda:
        if least // config.train.accumulate * an_image > room:
            raise ConfigError(_too_little(least, free))
        return size
    while not _runs(sized(config, size), new_trainer):
        if size == least:
            raise ConfigError(_too_little(least, free))
        size //= 2
    return size


def _too_little(images: int, free: int) -> str:
    return (
        f"train.batch_size=auto: not even {images} images fit into {free / 1e9:.1f} GB of free memory; take a smaller model, "
        "train.checkpointing=full or train.precision=bf16"
    )


def free_memory(device: torch.device) -> int:
    """Bytes that are free: on the GPU, or in main memory and in this container's share of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        most, used = (path.read_text().strip() for path in CGROUPS)
        return free if most == "max" else min(free, int(most) - int(used))
    except (OSError, ValueError):  # another system's groups
        return free


def _runs(config: Config, new_trainer: Callable[[Config], Trainer]) -> bool:
    """Whether two steps on made images go through: the second has the optimizers' moments beside its activations."""
    trainer = None
    try:
        trainer = new_trainer(config)
        batch = made_batch(config.train.batch_size, config.data.crop.num_points, config.model.crop_size, trainer)
        for _ in range(2):
            float(trainer.train_step(batch)["loss"])
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        del trainer
        gc.collect()
        torch.cuda.empty_cache()


def made_batch(images: int, num_points: int, crop_size: int, trainer: Trainer) -> Batch:
    """Black crops whose hands and objects all lie half a metre in front of the camera. On the CPU."""
    inputs = black_crops(images, num_points, crop_size)
    vertices = trainer.model.mano.num_vertices
    there, yes = torch.tensor([0.0, 0.0, 0.5]), torch.ones(images, dtype=torch.bool)
    targets = Targets(
        joints=there.repeat(images, 21, 1),
        pose=torch.zeros(images, 48),
        betas=torch.zeros(images, 10),
        translation=there.repeat(images, 1),
        vertices=there.repeat(images, vertices, 1),
        object_rotation=torch.eye(3).repeat(images, 1, 1),
        object_translation=there.repeat(images, 1),
        hand_contact=torch.zeros(images, vertices, dtype=torch.bool),
        object_contact=torch.zeros(images, num_points, dtype=torch.bool),
        hand_valid=yes,
        object_valid=yes,
        contact_valid=yes,
    )
    return Batch(inputs, targets, torch.arange(images))


def black_crops(images: int, num_points: int, crop_size: int) -> Inputs:
    """Inputs with a camera that could be. On the CPU."""
    inputs = fake_inputs(images, num_points, crop_size)
    camera = torch.tensor([[100.0, 0, crop_size / 2], [0, 100, crop_size / 2], [0, 0, 1]]).expand(images, 3, 3)
    box = torch.tensor([crop_size / 2, crop_size / 2, float(crop_size)]).expand(images, 3)
    size = torch.full((images, 2), float(crop_size))
    return replace(inputs, intrinsics=camera, frame_intrinsics=camera, box=box, frame_size=size)
