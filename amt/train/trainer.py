"""The training loop, in one sitting.

Whatever is random in a step derives from (seed, step), and the data from (seed, epoch, index): a run that was stopped and
resumed ends with the same weights, bit by bit, as one that was not.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from amt.config import choose_device, set_threads
from amt.data.loader import Loader, make_loader
from amt.errors import UserError
from amt.hand.batch import Batch
from amt.kernels import use
from amt.kernels.ranges import stage
from amt.model import AMT, save_checkpoint
from amt.model.draws import share_batches
from amt.model.fp8 import use_precision
from amt.model.fused_blocks import use_blocks
from amt.model.mean_pose import MeanPose
from amt.model.transfer import begin_from
from amt.train import ranks
from amt.train.batch_size import with_batch_size
from amt.train.collapse import CollapseMonitor, spread_ratio
from amt.train.config import Config, check_ranks, identity
from amt.train.ema import Ema
from amt.train.finite import FiniteGuard, explain
from amt.train.freezing import FreezeSchedule
from amt.train.gradients import centralize, clip_adaptively, clip_norm, group_norms
from amt.train.locator.train import locator_beside
from amt.train.losses import TrainingLoss
from amt.train.memory import Memory, estimate
from amt.train.optimizers import Optimizers, decayed_weights, head_weights
from amt.train.parallelize import apply_checkpointing, messages, parallelize
from amt.train.precision import with_precision
from amt.train.profiling import Profile
from amt.train.records import draw_curves
from amt.train.run_log import NORM, RunLog
from amt.train.same_run import REMEDY, check_checkpoint, check_same_data, check_same_run
from amt.train.schedule import learning_rate
from amt.train.sharding import rows_of, whole
from amt.train.sight import Sight, make_sight
from amt.train.signals import Stopped, StopRequest
from amt.train.states import Score, StateError, load_newest_of_all, only_run_in, save_state

log = logging.getLogger(__name__)


class TrainingError(UserError, RuntimeError):
    """The run cannot go on; the message says why and what to change."""


class Trainer:
    """Model, optimizers and what stands around them; :meth:`train_step` is all that happens in a step."""

    def __init__(self, config: Config):
        self.config, train = config, config.train
        self.device = ranks.own_device(choose_device(train.device, "train.device"))
        torch.manual_seed(train.seed)
        self.model = _new_model(config).to(self.device)
        products = use_precision(self.model, "train.precision", train.precision, training=True)
        if products:
            log.info("train.precision=%s: %s", train.precision, products)
        if train.parallel != "fsdp":  # which shards a block's own modules
            log.info("train.blocks=%s: %s", train.blocks, use_blocks(self.model, train.blocks))
        self.losses = TrainingLoss(train.loss, train.loss_schedule, self.model.mano).to(self.device)
        self.loss = parallelize(self.model, self.losses, train)  # of a batch and its step: a Loss and a Prediction
        self.optimizers = Optimizers(self.model, train, self.losses.parameters())
        self.guard = FiniteGuard(self.model, self.device, self.losses.statistics())
        self.ema = Ema(self.model, train.ema) if train.ema else None
        heads = {id(p) for p in head_weights(self.model)}
        self.matrices = decayed_weights(self.model)
        self.bodies = [p for p in self.model.parameters() if id(p) not in heads]  # what adaptive clipping is for
        self.freezing = FreezeSchedule(self.model, train.freeze)
        self.monitor = CollapseMonitor(train.collapse_checks, train.warmup_steps)
        self.data: str | None = None  # digest of the set that it was trained on
        self.step = 0
        self.seconds = 0.0  # spent on steps, those before a resumption included

    def position(self) -> float:
        """Where the run stands between 0 and ``train.steps``: its steps, or its share of ``train.minutes`` if that is more."""
        train = self.config.train
        spent = 0.0 if train.minutes is None else self.seconds / (60 * train.minutes) * train.steps
        return max(float(self.step), spent)

    def train_step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One optimizer step. Returns the loss, its terms and the gradient's norm; the host never waits for the device.

        Every ``train.log_every`` steps the norms of groups of parameters are there, too.

        A loss or gradient that is not finite changes nothing but ``bad_steps`` (in a row) and ``skipped`` (in all).
        """
        train = self.config.train
        shape = (train.lr, train.min_lr, train.warmup_steps, train.schedule)
        rate = learning_rate(self.position(), train.steps, *shape)
        self.optimizers.set_rate(rate)
        self.freezing.apply(self.step)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        self.losses.zero_grad(set_to_none=True)
        self.guard.begin()
        self._seed(self.step)
        losses, parts = [], self._micro_batches(batch)
        for number, part in enumerate(parts, start=1):
            with messages(self.loss, number == len(parts)):
                loss, prediction = self.loss(part, self.step)
                with stage("backward"):
                    (loss.total / train.accumulate).backward()
            spread = spread_ratio(prediction.joints, part.targets)
            losses.append({"loss": loss.total.detach(), **loss.terms, **loss.measures, "spread": spread})
        mean = losses[0] if len(losses) == 1 else {k: torch.stack([x[k] for x in losses]).mean() for k in losses[0]}
        if train.centralize:
            centralize(self.matrices)
        if train.agc:
            clip_adaptively(self.bodies, train.agc)
        logged = (self.step + 1) % train.log_every == 0
        norms = group_norms(self.optimizers.groups()) if logged else {}
        norm = clip_norm(self.model.parameters(), train.clip_norm)
        found_inf = self.guard.end(norm.isfinite() & mean["loss"].isfinite())
        with stage("optimizers"):
            self.optimizers.step(found_inf)
        if self.ema:
            self.ema.update(self.step, found_inf)
        self.step += 1
        counts = {"bad_steps": self.guard.in_a_row, "skipped": self.guard.skipped}
        return {**mean, "grad_norm": norm, **{NORM + k: v for k, v in norms.items()}, "lr": rate, **counts}

    def explain(self, batch: Batch) -> str:
        """What was not finite in the last step, which had this batch and changed nothing. Does the step again."""
        self.model.train()
        self._seed(self.step - 1)
        return explain(self.model, self._micro_batches(batch), lambda part: self.loss(part, self.step - 1)[0])

    def memory(self) -> Memory:
        """What a step will take, roughly; takes a second or more."""
        return estimate(self.outline(), self.optimizers.each, self.config.train, self.config.data.crop.num_points)

    def outline(self) -> AMT:
        """The model in one piece and without numbers, for estimates."""
        config = deepcopy(self.model.config)
        config.backbone.weights, config.backbone.require_pretrained = "none", False
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that DINOv2 starts at random does not matter here
            model = AMT(config)
        if self.config.train.precision == "fp8":  # te's and torchao's layers are not for fakes
            use_precision(model, "train.precision", "fp8", training=True)
        apply_checkpointing(model, self.config.train)
        return model

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated and exported, the average where there is one, on the first rank. All ranks must ask."""
        return whole(self.ema.state_dict() if self.ema else self.model.state_dict())

    def _seed(self, step: int) -> None:
        torch.manual_seed(self.config.train.seed * 1_000_003 + step)
        share_batches(ranks.number(), ranks.size(), self.config.data.window)

    def _micro_batches(self, batch: Batch) -> list[Batch]:
        batch, size = batch.to(self.device, non_blocking=True), len(batch.index) // self.config.train.accumulate
        return [batch[start : start + size] for start in range(0, len(batch.index), size)]

    def state_dict(self) -> dict:
        """All that a run goes on from. Where tensors are sharded, the first rank gathers them, and all ranks must ask."""
        state = {
            "model": self.model.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "guard": self.guard.state_dict(),
            "monitor": self.monitor.state_dict(),
            "data": self.data,
            "step": self.step,
            "seconds": self.seconds,
            "run": identity(asdict(self.config)),
        }
        return whole(state) if self.config.train.parallel == "fsdp" else state

    def load_state_dict(self, state: dict) -> None:
        """Raises StateError where the state does not fit the model or the optimizers."""
        try:
            own = self.model.state_dict()
            self.model.load_state_dict({k: rows_of(v, own.get(k, v)) for k, v in state["model"].items()})
            self.losses.load_state_dict(state["losses"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.guard.load_state_dict(state["guard"])
            self.monitor.load_state_dict(state["monitor"])
            if self.ema:
                self.ema.load_state_dict(state["ema"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StateError(f"the state does not fit this model and optimizer ({reason}); {REMEDY}") from error
        self.data, self.step, self.seconds = state["data"], state["step"], state["seconds"]


def _new_model(config: Config) -> AMT:
    if config.train.finetune:
        return begin_from(config.model, config.train.finetune)
    return AMT(deepcopy(config.model))  # a copy: pretrained weights change some of its values


def run(config: Config, loader: Loader | None = None, progress: bool = True, validation: Loader | None = None) -> Path:
    """Trains, resuming from the newest state in ``train.output``, and returns the folder of the finished checkpoint.

    Args:
        loader: of this rank's share of the training set; made from ``config.data`` where none is given.
        progress: show lines and a bar.
        validation: of this rank's share of the frames that are looked at between steps; where no loader is given at all, made
            from ``config.data``.

    Raises:
        ConfigError, DataError, CheckpointError, StateError, TrainingError: each names what is wrong and the remedy.
        Stopped: SIGTERM or SIGINT came, and the state is saved.
        RankLost, Echo: another rank has ended, or has told its error.
    """
    check_ranks(config)
    train, output = config.train, config.output_folder()
    set_threads(train.threads)
    device = ranks.own_device(choose_device(train.device, "train.device"))
    stopping = StopRequest(launched=train.parallel != "none")
    with stopping as stop, ranks.joined(train.parallel, device), ExitStack() as lock, use(config.kernels.use):
        progress = progress and ranks.first()
        ranks.lead(lock.enter_context, only_run_in(output))
        trainer = _begin(config, device)
        config, train = trainer.config, trainer.config.train
        if trainer.position() < train.steps:
            if loader is None and validation is None:
                sight = make_sight(config, device, progress)
            else:
                sight = Sight(config, validation)
            if loader is None:
                share = {"rank": ranks.number(), "world_size": ranks.size(), "device": device}
                size = train.batch_size // ranks.size()
                loader = make_loader(config.data, "train", size, seed=train.seed, progress=progress, **share)
            trainer.data = check_same_data(config, trainer.data, ranks.lead(loader.digest))
            if progress:
                log.info("%s", trainer.memory())
            _train(trainer, loader, output, stop, RunLog(trainer, output, progress), sight)
        elif config.checkpoint_folder().is_dir():
            log.info("%s: this run is finished after %d steps; nothing is left to train", output, trainer.step)
            return config.checkpoint_folder()
        if trainer.step < train.steps:
            log.warning("ended at step %d of %d after train.minutes=%g", trainer.step, train.steps, train.minutes)
        weights = trainer.weights()
        return ranks.lead(_publish, trainer, weights, loader, progress)


def _begin(config: Config, device: torch.device) -> Trainer:
    """A trainer at the newest state in ``train.output``, or at the beginning where there is none."""
    output = config.output_folder()
    newest = load_newest_of_all(output / "states", device if config.train.parallel == "none" else torch.device("cpu"))
    state = None if newest is None else newest[1]
    config = with_batch_size(with_precision(config, state, device), state, Trainer)
    ranks.lead(check_checkpoint, config)
    if state is None:
        return Trainer(config)
    check_same_run(config, state)
    trainer = Trainer(config)
    trainer.load_state_dict(state)
    if trainer.position() < config.train.steps:
        log.info("continuing from step %d of %s", trainer.step, output)
    return trainer


def _publish(trainer: Trainer, weights: dict[str, Tensor], loader: Loader | None, progress: bool) -> Path:
    """The curves, and the checkpoint with these weights."""
    config, output = trainer.config, trainer.config.output_folder()
    draw_curves(output, output / "loss.png", sorted(trainer.losses.wanted))
    record = {"train": asdict(config.train), "data": asdict(config.data), "steps": trainer.step}
    mean_pose = _mean_pose(config, loader, progress)
    locator, figures = locator_beside(config, trainer.device, progress) if _is_own(loader) else (None, {})
    record |= {"locator": figures} if locator is not None else {}
    return save_checkpoint(config.checkpoint_folder(), trainer.model, mean_pose, None, weights, locator, **record)


def _train(trainer: Trainer, loader: Loader, output: Path, stop: StopRequest, run_log: RunLog, sight: Sight) -> None:
    """All steps that are left, with a log and resumable states in ``output``. Raises Stopped, and TrainingError."""
    train = trainer.config.train
    profile = Profile(train.profile if ranks.first() else None, trainer.model, output, trainer.device)
    with stop.between_steps(), run_log, profile:
        start, losses = time.perf_counter(), []
        for epoch, batch in run_log.throughput.waiting(_batches(loader, trainer.step, train.steps)):
            profile.before(trainer.step)
            run_log.add(step=trainer.step, epoch=epoch, **trainer.train_step(batch))
            spent, start = trainer.seconds + time.perf_counter() - start, time.perf_counter()
            signum, trainer.seconds = ranks.most(stop.signum or 0, spent)  # all ranks end at the same step
            finished = trainer.position() >= train.steps
            ends = finished and not signum  # who sends a signal does not wait for a last validation
            saves = (
                finished or signum > 0 or trainer.step % train.save_every == 0 or sight.validates(trainer.step, ends)
            )
            if saves or trainer.step % train.log_every == 0 or sight.draws(trainer.step, ends):
                losses += _read(trainer, run_log, batch)
            score = sight.look(trainer, run_log, ends)
            if saves:
                state = trainer.state_dict()
                score = score if sight.scores else _mean_loss(losses)
                ranks.lead(save_state, output / "states", trainer.step, state, train.keep, score)
                del state
                losses = []
            if finished:
                return
            if signum:
                raise Stopped(int(signum), trainer.step)


def _read(trainer: Trainer, run_log: RunLog, batch: Batch) -> list[float]:
    """Reads the losses since the last time from the device, tells them and returns them.

    Raises TrainingError where the run should end: too many steps without a finite loss, or a model that has collapsed.
    """
    rows = run_log.flush(trainer.position(), trainer.seconds)
    if rows[-1]["bad_steps"] >= trainer.config.train.bad_steps:
        raise TrainingError(
            f"step {trainer.step - 1}: {int(trainer.guard.in_a_row)} steps in a row without a finite loss and gradient "
            f"({trainer.explain(batch)}); mend these samples, or lower train.lr and train.muon_lr"
        )
    if (report := trainer.monitor.look(rows)) is not None:
        raise TrainingError(report)
    return [row["loss"] for row in rows]


def _mean_loss(losses: list[float]) -> Score | None:
    """Of the steps since the last state; those that were skipped do not count."""
    finite = [loss for loss in losses if isfinite(loss)]
    return Score("loss", sum(finite) / len(finite)) if finite else None


def _is_own(loader: Loader | None) -> bool:
    """Whether the run's batches come from ``config.data``, and not from what a caller made."""
    return loader is None or isinstance(loader, Loader)


def _mean_pose(config: Config, loader: Loader | None, progress: bool) -> MeanPose:
    """Of the training set without augmentation: what evaluation compares the model with."""
    from tqdm import tqdm

    if _is_own(loader):
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
