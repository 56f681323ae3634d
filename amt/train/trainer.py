"""The training loop, in one sitting.

Whatever is random in a step derives from (seed, step), and the data from (seed, epoch, index): a run that was stopped and
resumed ends with the same weights, bit by bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import torch

from amt.config import choose_device, set_threads
from amt.data.loader import Loader, make_loader
from amt.hand.batch import Batch
from amt.kernels import use
from amt.model import AMT, save_checkpoint
from amt.train.config import Config, LossConfig
from amt.train.losses import compute_loss
from amt.train.optimizers import make_optimizers
from amt.train.records import StepLog, draw_curves
from amt.train.schedule import learning_rate
from amt.train.states import StateError, load_newest, save_state

log = logging.getLogger(__name__)
TERMS = [field.name for field in fields(LossConfig)]
MOST_BAD_STEPS = 20  # steps without a finite gradient, one after the other, before a run gives up


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why and what to change."""


class Trainer:
    """Model, optimiser and step count; :meth:`train_step` is all that happens in a step."""

    def __init__(self, config: Config):
        self.config, train = config, config.train
        self.device = choose_device(train.device, "train.device")
        torch.manual_seed(train.seed)
        self.model = AMT(config.model).to(self.device)
        self.optimizers = make_optimizers(self.model, train)
        self.step = 0
        self.seconds = 0.0  # spent on steps, those before a resumption included
        self.bad_steps = 0  # in a row

    def position(self) -> float:
        """Where the run stands between 0 and ``train.steps``: its steps, or its share of ``train.minutes`` if that is more."""
        train = self.config.train
        spent = 0.0 if train.minutes is None else self.seconds / (60 * train.minutes) * train.steps
        return max(float(self.step), spent)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step. Returns the loss, its terms and the gradient's norm; an infinite one changes no weight."""
        train = self.config.train
        torch.manual_seed(train.seed * 1_000_003 + self.step)
        rate = learning_rate(self.position(), train.steps, train.lr, train.min_lr, train.warmup_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * optimizer.defaults["lr"] / train.lr
        self.model.train()
        batch = batch.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=train.precision == "bf16"):
            prediction = self.model(batch.inputs)
        loss = compute_loss(prediction, batch, train.loss)
        self.model.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_norm))
        finite = norm < float("inf")  # False for NaN too
        if finite:
            for optimizer in self.optimizers:
                optimizer.step()
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if self.bad_steps >= MOST_BAD_STEPS:
            raise TrainingError(
                f"step {self.step}: {self.bad_steps} steps without a finite gradient; lower train.lr and train.muon_lr"
            )
        self.step += 1
        terms = {name: float(value) for name, value in loss.terms.items()}
        return {"loss": float(loss.total.detach()), **terms, "grad_norm": norm, "lr": rate}

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "model_config": self.config.model.as_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises StateError where the state belongs to another model or optimizer."""
        if state["model_config"] != self.config.model.as_dict():
            raise StateError(
                f"{self.config.train.output} holds the states of another model; choose another train.output or remove it"
            )
        optimizers = state.get("optimizers", [])  # none: saved before there were two
        if len(optimizers) != len(self.optimizers):
            raise StateError(
                f"{self.config.train.output} holds the states of another optimizer than "
                f"train.optimizer={self.config.train.optimizer}; choose another train.output or remove it"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, optimizers):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def run(config: Config, loader: Loader | None = None, progress: bool = True) -> Path:
    """Trains, resuming from the newest state in ``train.output``, and returns the folder of the finished checkpoint.

    Args:
        loader: of the training set; made from ``config.data`` where none is given.
        progress: show a bar with the loss and the time left.

    Raises:
        ConfigError, DataError, StateError, TrainingError: each names what is wrong and the remedy.
    """
    from tqdm import tqdm

    train = config.train
    output = Path(train.output)
    set_threads(train.threads)
    with use(config.kernels.use):
        trainer = Trainer(config)
        if loader is None:
            loader = make_loader(config.data, "train", train.batch_size, seed=train.seed, progress=progress)
        output.mkdir(parents=True, exist_ok=True)
        newest = load_newest(output / "states", trainer.device)
        if newest is not None:
            trainer.load_state_dict(newest[1])
            log.info("continuing from step %d of %s", trainer.step, output)
        log_path = output / "log.csv"
        columns = ["step", "epoch", "loss", *TERMS, "grad_norm", "lr", "images_per_second", "seconds"]
        steps = StepLog(log_path, columns, trainer.step)
        bar = tqdm(total=train.steps, initial=trainer.step, unit="step", desc="training", disable=not progress)
        with contextlib.closing(steps), bar:
            start, smoothed = time.perf_counter(), None
            last_step = train.steps if trainer.position() < train.steps else trainer.step
            for epoch, batch in _batches(loader, trainer.step, last_step):
                result = trainer.train_step(batch)
                end = time.perf_counter()
                seconds, start = end - start, end
                trainer.seconds += seconds
                rate = train.batch_size / seconds
                steps.write(step=trainer.step - 1, epoch=epoch, **result, images_per_second=rate, seconds=seconds)
                smoothed = result["loss"] if smoothed is None else 0.95 * smoothed + 0.05 * result["loss"]
                bar.set_postfix(loss=f"{smoothed:.3f}", images_per_s=f"{rate:.0f}", refresh=False)
                bar.update()
                done = trainer.position() >= train.steps
                if done or trainer.step % train.save_every == 0:
                    save_state(output / "states", trainer.step, trainer.state_dict(), train.keep)
                if done:
                    break
        if trainer.step < train.steps:
            log.warning("stopped at step %d of %d after train.minutes=%g", trainer.step, train.steps, train.minutes)
        draw_curves(log_path, output / "loss.png", [name for name in TERMS if getattr(train.loss, name) > 0])
        record = {"train": asdict(train), "data": asdict(config.data), "steps": trainer.step}
        return save_checkpoint(train.checkpoint or output / "checkpoint", trainer.model, **record)


def _batches(loader: Loader, first_step: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """The batches of steps ``first_step`` up to ``steps``, each with its epoch."""
    step = first_step
    while step < steps:
        epoch, first_batch = divmod(step, len(loader))
        loader.set_epoch(epoch, first_batch)
        for batch in loader:
            yield epoch, batch
            step += 1
            if step == steps:
                return
