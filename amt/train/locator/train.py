"""Trains a locator, calibrates its threshold on people that it never learned from, and says how good it is there.

A picture derives from (seed, step, index): two runs of the same number of steps end with the same weights.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amt.data.config import DataConfig
from amt.data.errors import DataError
from amt.data.loader import open_reader
from amt.data.threads import in_threads
from amt.data.whole_frames import WholeFrames, compose, read_whole_frames
from amt.model.locator import Locator, LocatorConfig
from amt.train.config import Config
from amt.train.locator.calibrate import calibrate
from amt.train.locator.loss import LocatorTargets, locator_loss, make_targets
from amt.train.locator_config import LocatorTraining
from amt.train.muon import Muon
from amt.train.schedule import learning_rate

log = logging.getLogger(__name__)
WARMUP = 50  # steps
MIN_LR = 1e-6
VALIDATED = 512  # validation frames
CLIP_NORM = 10.0
LINES = 5  # of the log


def train_locator(
    data: DataConfig,
    training: LocatorTraining,
    steps: int,
    seed: int,
    device: torch.device | str,
    progress: bool = True,
) -> tuple[Locator, dict[str, Any]]:
    """A locator for a set, and its figures on validation frames (:func:`amt.train.locator.calibrate.calibrate`).

    Args:
        steps: of the optimizer.

    Raises:
        DataError: the set has no frame to learn from.
    """
    say = log.info if progress else lambda *_: None
    start = time.perf_counter()
    frames = read_whole_frames(open_reader(data, "train"), training.frames, data.augment.backgrounds)
    say(
        "locator: %d frames read in %.0f s; up to %d steps of %d",
        len(frames),
        time.perf_counter() - start,
        steps,
        training.batch_size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        locator = Locator(LocatorConfig()).to(device)
    end = None if training.minutes is None else start + 60 * training.minutes
    done = fit(locator, frames, training, steps, seed, end, say)
    if done < steps:
        log.warning("locator: ended at step %d of %d after train.locator.minutes=%g", done, steps, training.minutes)
    figures = calibrate(locator.eval(), _held_out(data, frames), seed)
    locator.config = replace(locator.config, threshold=figures["threshold"])
    say("locator: %s", ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items()))
    return locator, figures


def locator_beside(config: Config, device: torch.device, progress: bool) -> tuple[Locator | None, dict[str, Any]]:
    """The locator of a run, and its figures. A set that cannot teach one costs a warning, not the model that is trained."""
    training = config.train.locator
    if not training.steps:
        return None, {}
    try:
        return train_locator(config.data, training, training.steps, config.train.seed, device, progress)
    except (DataError, OSError, MemoryError) as error:
        log.warning(
            "no locator of its own, hands will be found by the one that ships: %s",
            " ".join(str(error).split()) or type(error).__name__,
        )
        return None, {}


def fit(
    locator: Locator, frames: WholeFrames, training: LocatorTraining, steps: int, seed: int, end: float | None, say
) -> int:
    """Trains until ``steps``, or until the clock (``time.perf_counter``) shows ``end``. Returns the steps done."""
    optimizers = _optimizers(locator, training)
    device, start, position = next(locator.parameters()).device, time.perf_counter(), 0.0
    locator.train()
    for step in range(steps):
        now = time.perf_counter()
        spent = 0.0 if end is None else 1.0 if now >= end else (now - start) / (end - start)
        before, position = position, max(float(step), spent * steps)
        if position >= steps:
            return step
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(position, steps, peak, MIN_LR, min(WARMUP, steps // 10), "cosine")
        images, targets = make_batch(locator.config, frames, training.batch_size, seed, step)
        terms = locator_loss(locator(images.to(device)), targets.to(device))
        locator.zero_grad(set_to_none=True)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(locator.parameters(), CLIP_NORM)
        for optimizer, _ in optimizers:
            optimizer.step()
        if int(position * LINES / steps) > int(before * LINES / steps):
            say(
                "locator: step %d  %s",
                step + 1,
                "  ".join(f"{name} {float(value.detach()):.3g}" for name, value in terms.items()),
            )
    return steps


def make_batch(
    config: LocatorConfig, frames: WholeFrames, size: int, seed: int, step: int
) -> tuple[Tensor, LocatorTargets]:
    """uint8 [B, 3, height, width] and its targets; every frame comes once an epoch, in an order of the epoch."""
    width, height = config.width, config.height
    images, rows = np.empty((size, height, width, 3), np.uint8), [None] * size
    epochs = [
        np.random.default_rng([seed, epoch]).permutation(len(frames))
        for epoch in _epochs(step * size, size, len(frames))
    ]

    def one(k: int) -> None:
        epoch, place = divmod(step * size + k, len(frames))
        index = int(epochs[epoch - step * size // len(frames)][place])
        sample = compose(frames, width, height, seed, epoch, index)
        images[k] = sample.image
        rows[k] = make_targets(sample.boxes, sample.right, sample.ignored, sample.skin)

    in_threads(one, size)
    targets = LocatorTargets(*(torch.from_numpy(np.stack(column)) for column in zip(*rows)))
    return torch.from_numpy(images).permute(0, 3, 1, 2), targets


def _epochs(first: int, count: int, length: int) -> range:
    """The epochs that samples ``first`` to ``first + count - 1`` belong to."""
    return range(first // length, (first + count - 1) // length + 1)


def _optimizers(locator: Locator, training: LocatorTraining) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for convolutions between features, AdamW for the rest; each with its peak rate."""
    matrices, others = [], []
    for name, p in locator.named_parameters():
        is_matrix = p.dim() == 4 and p.shape[1] > 3 and not name.startswith("head.")
        (matrices if is_matrix else others).append(p)
    return [
        (Muon(matrices, lr=training.muon_lr, weight_decay=0.02), training.muon_lr),
        (torch.optim.AdamW(others, lr=training.lr, weight_decay=0.0), training.lr),
    ]


def _held_out(data: DataConfig, seen: WholeFrames) -> WholeFrames:
    """Validation frames; where the set has none, those of training, with a line that says so."""
    try:
        return read_whole_frames(open_reader(data, "val"), VALIDATED, data.augment.backgrounds)
    except DataError as error:
        log.warning("locator: calibrated on frames of its training, so that its figures are too good: %s", error)
        return seen
