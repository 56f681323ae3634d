"""The training loop, in one sitting.

Whatever is random in a step derives from (seed, step), and the data from (seed, epoch, index): a run that was stopped and
resumed ends with the same weights, bit by bit, as one that was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from amt.config import choose_device, set_threads
from amt.data.loader import Loader, make_loader
from amt.files import recover
from amt.hand.batch import Batch
from amt.kernels import use
from amt.model import AMT, save_checkpoint
from amt.model.checkpoint import check_free, read_record
from amt.model.mean_pose import MeanPose
from amt.train.config import TERMS, Config, check_one_process, differences, identity
from amt.train.losses import TrainingLoss, wanted_terms
from amt.train.optimizers import make_optimizers
from amt.train.records import StepLog, draw_curves
from amt.train.schedule import learning_rate
from amt.train.signals import Stopped, StopRequest
from amt.train.states import StateError, load_newest, only_run_in, save_state

log = logging.getLogger(__name__)
MEASURES = ["contact_f1", "contact_f1_constant"]  # columns of the log beside the terms
REMEDY = "choose another train.output, or remove the folder to start from scratch"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MOST_BAD_STEPS = 20  # steps without a finite gradient, one after the other, before a run gives up


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why and what to change."""


class Trainer:
    """Model, optimiser and step count; :meth:`train_step` is all that happens in a step."""

    def __init__(self, config: Config):
        self.config, train = config, config.train
        self.device = choose_device(train.device, "train.device")
        torch.manual_seed(train.seed)
        self.model = AMT(deepcopy(config.model)).to(self.device)  # a copy: pretrained weights change some of its values
        self.losses = TrainingLoss(train.loss, train.loss_schedule, self.model.mano).to(self.device)
        self.optimizers = make_optimizers(self.model, train, self.losses.parameters())
        norms = [module for module in self.model.modules() if isinstance(module, BATCH_NORMS)]
        # what a forward pass changes
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()] + self.losses.statistics()
        self.step = 0
        self.seconds = 0.0  # spent on steps, those before a resumption included
        self.bad_steps = torch.zeros((), device=self.device)  # without a finite gradient, in a row

    def position(self) -> float:
        """Where the run stands between 0 and ``train.steps``: its steps, or its share of ``train.minutes`` if that is more."""
        train = self.config.train
        spent = 0.0 if train.minutes is None else self.seconds / (60 * train.minutes) * train.steps
        return max(float(self.step), spent)

    def train_step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One optimiser step. Returns the loss, its terms, the gradient's norm and the bad steps in a row; the host never waits.

        A gradient that is not finite changes nothing: no weight, no moment, no running statistic of a batch norm.
        """
        train = self.config.train
        torch.manual_seed(train.seed * 1_000_003 + self.step)
        rate = learning_rate(self.position(), train.steps, train.lr, train.min_lr, train.warmup_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * optimizer.defaults["lr"] / train.lr
        self.model.train()
        batch = batch.to(self.device, non_blocking=True)
        before = [buffer.clone() for buffer in self.statistics]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=train.precision == "bf16"):
            prediction = self.model(batch.inputs)
        loss = self.losses(prediction, batch, self.step)
        self.model.zero_grad(set_to_none=True)
        self.losses.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_norm)
        found_inf = (~norm.isfinite()).float()  # stays on the device
        for optimizer in self.optimizers:
            optimizer.found_inf = found_inf
            optimizer.step()
        for buffer, value in zip(self.statistics, before):
            buffer.copy_(torch.where(found_inf > 0, value, buffer))
        self.bad_steps = (self.bad_steps + 1) * found_inf
        self.step += 1
        return {
            "loss": loss.total.detach(),
            **loss.terms,
            **loss.measures,
            "grad_norm": norm,
            "lr": rate,
            "bad_steps": self.bad_steps,
        }

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "run": identity(asdict(self.config)),
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises StateError where the state does not fit the model or the optimizers."""
        try:
            self.model.load_state_dict(state["model"])
            self.losses.load_state_dict(state["losses"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StateError(f"the state does not fit this model and optimizer ({reason}); {REMEDY}") from error
        self.step, self.seconds = state["step"], state["seconds"]


def run(config: Config, loader: Loader | None = None, progress: bool = True) -> Path:
    """Trains, resuming from the newest state in ``train.output``, and returns the folder of the finished checkpoint.

    Args:
        loader: of the training set; made from ``config.data`` where none is given.
        progress: show a bar with the loss and the time left.

    Raises:
        ConfigError, DataError, CheckpointError, StateError, TrainingError: each names what is wrong and the remedy.
        Stopped: SIGTERM or SIGINT came, and the state is saved.
    """
    check_one_process()
    train, output = config.train, Path(config.train.output).expanduser()
    set_threads(train.threads)
    with only_run_in(output), use(config.kernels.use):
        _check_checkpoint(config)
        newest = load_newest(output / "states", choose_device(train.device, "train.device"))
        if newest is not None:
            _check_same_run(config, newest[1], output)
        trainer = Trainer(config)
        if newest is not None:
            trainer.load_state_dict(newest[1])
        if trainer.position() < train.steps:
            if newest is not None:
                log.info("continuing from step %d of %s", trainer.step, output)
            if loader is None:
                loader = make_loader(config.data, "train", train.batch_size, seed=train.seed, progress=progress)
            _train(trainer, loader, output, progress)
        elif config.checkpoint_folder().is_dir():
            log.info("%s: this run is finished after %d steps; nothing is left to train", output, trainer.step)
            return config.checkpoint_folder()
        if trainer.step < train.steps:
            log.warning("ended at step %d of %d after train.minutes=%g", trainer.step, train.steps, train.minutes)
        draw_curves(output / "log.csv", output / "loss.png", sorted(wanted_terms(train.loss, train.loss_schedule)))
        record = {"train": asdict(train), "data": asdict(config.data), "steps": trainer.step}
        mean_pose = _mean_pose(config, loader, progress)
        return save_checkpoint(config.checkpoint_folder(), trainer.model, mean_pose, **record)


def _train(trainer: Trainer, loader: Loader, output: Path, progress: bool) -> None:
    """All steps that are left, with a log and resumable states in ``output``."""
    from tqdm import tqdm

    train = trainer.config.train
    columns = ["step", "epoch", "loss", *TERMS, *MEASURES, "grad_norm", "lr", "images_per_second", "seconds"]
    steps = StepLog(output / "log.csv", columns, trainer.step, train.batch_size)
    bar = tqdm(total=train.steps, initial=trainer.step, unit="step", desc="training", disable=not progress)
    with StopRequest() as stop, bar:
        start, smoothed = time.perf_counter(), None
        for epoch, batch in _batches(loader, trainer.step, train.steps):
            steps.add(step=trainer.step, epoch=epoch, **trainer.train_step(batch))
            trainer.seconds, start = trainer.seconds + time.perf_counter() - start, time.perf_counter()
            bar.update()
            last = trainer.position() >= train.steps or stop.signum is not None
            save = last or trainer.step % train.save_every == 0
            if save or trainer.step % train.log_every == 0:
                for row in steps.flush():
                    _check_progress(row)
                    smoothed = row["loss"] if smoothed is None else 0.95 * smoothed + 0.05 * row["loss"]
                bar.set_postfix(loss=f"{smoothed:.3f}", images_per_s=f"{row['images_per_second']:.0f}", refresh=False)
            if save:
                save_state(output / "states", trainer.step, trainer.state_dict(), train.keep)
            if stop.signum is not None and trainer.position() < train.steps:
                raise Stopped(stop.signum, trainer.step)
            if last:
                return


def _check_progress(row: dict) -> None:
    """Raises TrainingError where too many steps in a row had no finite gradient."""
    if row["bad_steps"] >= MOST_BAD_STEPS:
        raise TrainingError(
            f"step {row['step']}: {MOST_BAD_STEPS} steps without a finite gradient; lower train.lr and train.muon_lr"
        )


def _check_same_run(config: Config, state: dict, output: Path) -> None:
    """Raises StateError where the states in ``output`` are of a run with another configuration."""
    if "run" not in state:
        difference = "its states are older than this version and do not say of which run they are"
    else:
        difference = differences(state["run"], identity(asdict(config)))
    if difference and config.train.resume != "force":
        raise StateError(f"{output} holds another run ({difference}); {REMEDY}, or accept this with train.resume=force")
    if difference:
        log.warning("%s: continuing all the same: %s", output, difference)


def _check_checkpoint(config: Config) -> None:
    """Raises CheckpointError or StateError where the result's folder holds other files, or the model of another run."""
    folder = config.checkpoint_folder()
    recover(folder)
    check_free(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    saved, now = identity(read_record(folder)), identity(asdict(config))
    shared = [
        key for key in now if key in saved and not key.startswith("model.backbone.")
    ]  # weights may have changed those
    difference = differences({key: saved[key] for key in shared}, {key: now[key] for key in shared})
    if difference and config.train.resume != "force":
        raise StateError(
            f"{folder} holds the model of another run ({difference}); choose another train.output or train.checkpoint, remove "
            "it, or accept this with train.resume=force"
        )


def _mean_pose(config: Config, loader: Loader | None, progress: bool) -> MeanPose:
    """Of the training set without augmentation: what evaluation compares the model with."""
    from tqdm import tqdm

    if loader is None or isinstance(loader, Loader):
        loader = make_loader(
            config.data, "train", config.train.batch_size, augment=False, shuffle=False, progress=progress
        )
    loader.set_epoch(0)
    return MeanPose.of(tqdm(loader, desc="mean pose of the training set", unit="batch", disable=not progress))


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
