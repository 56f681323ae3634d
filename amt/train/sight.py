"""What is looked at between steps: validation and pictures. A run has the same bits with and without them.

Of several ranks each validates on its share of every batch. The samples of the pictures go through all of them: a sharded
model needs every rank.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from amt.data.errors import DataError
from amt.data.loader import Loader, make_loader
from amt.hand.batch import Batch
from amt.train import ranks
from amt.train.config import Config
from amt.train.pictures import draw_samples, fixed_samples, write_picture
from amt.train.run_log import RunLog
from amt.train.states import Score, best_state, read_score
from amt.train.validation import validate, validation_line

if TYPE_CHECKING:
    from amt.train.trainer import Trainer

log = logging.getLogger(__name__)
PICTURES = "pictures"  # folder in train.output


class Sight:
    """Validates every ``train.validate_every`` steps and draws every ``train.pictures_every``, and at the end of a run.

    Args:
        loader: of this rank's share of the frames that are looked at, in order and not augmented; None looks at nothing.
    """

    def __init__(self, config: Config, loader: Loader | None):
        self.loader, self.output = loader, config.output_folder()
        self.train = config.train
        self.samples: list[Batch] | None = None  # of the pictures

    def validates(self, step: int, ends: bool) -> bool:
        """Whether there is a validation after ``step`` steps; ``ends``: with these the run is finished."""
        return self._is_due(self.train.validate_every, step, ends)

    def draws(self, step: int, ends: bool) -> bool:
        """Whether there is a picture after ``step`` steps."""
        return self._is_due(self.train.pictures_every, step, ends)

    @property
    def scores(self) -> bool:
        """Whether validations say which state is the best; else the loss does."""
        return self.loader is not None and self.train.validate_every > 0

    def look(self, trainer: Trainer, run_log: RunLog, ends: bool) -> Score | None:
        """Does what is due, by the averaged weights where there are some, and tells it. Returns the score of a validation."""
        validates, draws = self.validates(trainer.step, ends), self.draws(trainer.step, ends)
        if not (validates or draws):
            return None
        score = None
        with evaluating(trainer):
            if validates:
                score = self._validate(trainer, run_log)
            if draws:
                self._draw(trainer, run_log)
        return score

    def _validate(self, trainer: Trainer, run_log: RunLog) -> Score | None:
        figures = validate(trainer, self.loader)
        name = "wrist_aligned_mm" if "wrist_aligned_mm" in figures else "loss"
        score = Score(f"validation {name}", figures[name])
        kept = best_state(self.output / "states")
        before = None if kept is None else read_score(kept)
        best = before is None or before.name != score.name or score.value <= before.value
        run_log.validated(trainer.step, figures, validation_line(trainer.step, self.train.steps, figures, best))
        return score

    def _draw(self, trainer: Trainer, run_log: RunLog) -> None:
        if self.samples is None:
            self.samples = ranks.lead(fixed_samples, self.loader)
        if self.samples:
            picture = draw_samples(trainer, self.samples)
            if ranks.first():
                write_picture(self.output / PICTURES / f"step-{trainer.step:08d}.jpg", picture)
            run_log.picture(trainer.step, picture)

    def _is_due(self, every: int, step: int, ends: bool) -> bool:
        return self.loader is not None and every > 0 and (ends or step % every == 0)


def make_sight(config: Config, device: torch.device, progress: bool) -> Sight:
    """Looks at ``train.validate_images`` frames of the set's validation subset; where there is none, a line says so."""
    train, data = config.train, config.data
    if not (train.validate_every or train.pictures_every):
        return Sight(config, None)
    limits = [limit for limit in (data.limit, train.validate_images or None) if limit is not None]
    few = replace(data, limit=min(limits, default=None), window=1)
    share = {"rank": ranks.number(), "world_size": ranks.size(), "device": device}
    size = train.batch_size // ranks.size()
    try:
        loader = make_loader(few, "val", size, augment=False, shuffle=False, progress=progress, **share)
    except DataError as error:
        log.warning("no validation and no pictures: %s", error)
        return Sight(config, None)
    return Sight(config, loader)


@contextmanager
def evaluating(trainer: Trainer) -> Iterator[None]:
    """A block in which the model is the one that is evaluated: averaged weights, evaluation mode. All is as before after it."""
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    modules = (trainer.model, trainer.losses)
    before = [module.training for module in modules]
    with torch.random.fork_rng(devices=devices), trainer.ema.applied() if trainer.ema else nullcontext():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module, training in zip(modules, before):
                module.train(training)
