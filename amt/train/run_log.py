"""What a run tells while it goes: a line every ``train.log_every`` steps, a bar on a terminal, log files and loggers."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amt.train import ranks
from amt.train.loggers import Loggers
from amt.train.records import STEPS, VALIDATIONS, JsonLines, Row, StepLog, mean_rows
from amt.train.throughput import Throughput, peak_flops, training_flops

if TYPE_CHECKING:
    from amt.train.trainer import Trainer

NORM = "grad_norm/"  # of a group of parameters


class RunLog:
    """A block around the steps of a run, in which it is told how they go; by the first rank, where there are several.

    Args:
        trainer: before its first step here.
        show: print lines, and a bar where standard error is a terminal.
    """

    def __init__(self, trainer: Trainer, output: Path, show: bool):
        config, self.show = trainer.config, show
        self.train = config.train
        files = {name: output / name if ranks.first() else None for name in (STEPS, VALIDATIONS)}
        self.steps = StepLog(files[STEPS], trainer.step)
        self.validations = JsonLines(files[VALIDATIONS], trainer.step + 1)
        peak = peak_flops(trainer.device, self.train.precision != "float32")
        flops = None if peak is None else training_flops(trainer.outline(), config.data.crop.num_points)
        self.throughput = Throughput(self.train.batch_size, trainer.device, flops, peak and peak * ranks.size())
        self.loggers = Loggers(self.train.logger if ranks.first() else (), output, asdict(config), trainer.step)
        self.terms: list[str] = sorted(trainer.losses.wanted)
        self.first_step = trainer.step

    def __enter__(self) -> RunLog:
        from tqdm import tqdm

        off = not (self.show and sys.stderr.isatty())
        self.bar = tqdm(total=self.train.steps, initial=self.first_step, unit="step", desc="training", disable=off)
        self.throughput.restart()
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        self.loggers.close()

    def add(self, **values: Any) -> None:
        """Notes one step; tensors stay on their device."""
        self.steps.add(**values)
        self.bar.update()

    def flush(self, position: float, seconds: float) -> list[Row]:
        """Reads, writes and shows the steps since the last call, which it returns with their numbers.

        Args:
            position: of the run, as :meth:`Trainer.position` says.
            seconds: that were spent on steps so far.
        """
        rows = self.steps.flush(self.throughput.interval)
        if rows:
            figures = mean_rows(rows)
            limit = None if self.train.minutes is None else max(60 * self.train.minutes - seconds, 0.0)
            left = self.throughput.left(max(self.train.steps - position, 0.0), limit)
            self.tell(step_line(figures, self.train.steps, self.terms, left))
            self.loggers.scalars(figures["step"], {_tag(name): value for name, value in figures.items()})
            self.bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)
        return rows

    def tell(self, line: str) -> None:
        """Prints a line above the bar; on a terminal it is cut to the terminal's width."""
        if not self.show:
            return
        from tqdm import tqdm

        if sys.stdout.isatty():
            line = line[: shutil.get_terminal_size().columns]
        with tqdm.external_write_mode():
            print(line, flush=True)

    def validated(self, step: int, figures: dict[str, float], line: str) -> None:
        """Takes the figures of a validation after ``step`` steps down. The time that it took does not count as training's."""
        self.validations.append([{"step": step, **figures}])
        self.loggers.scalars(step, {f"validation/{name}": value for name, value in figures.items()})
        self.tell(line)
        self.throughput.restart()

    def picture(self, step: int, image: np.ndarray) -> None:
        """Gives a picture, uint8 [H, W, 3], to the loggers."""
        self.loggers.picture(step, "predictions", image)
        self.throughput.restart()


def step_line(figures: Row, steps: int, terms: list[str], left: float | None) -> str:
    """The line of a log interval: what matters most comes first, the loss terms come last."""
    groups = {name.removeprefix(NORM): value for name, value in figures.items() if name.startswith(NORM)}
    norms = ", ".join(f"{name} {_number(value)}" for name, value in groups.items())
    parts = [
        f"step {figures['step'] + 1}/{steps}",
        f"loss {_number(figures['loss'])}",
        f"lr {figures['lr']:.1e}",
        f"gradient {_number(figures['grad_norm'])}" + (f" ({norms})" if norms else ""),
        f"{figures['images_per_second']:.0f} images/s",
        f"wait {100 * figures['data_wait']:.0f} %",
    ]
    if "mfu" in figures:
        parts.append(f"MFU {100 * figures['mfu']:.1f} %")
    parts.append(f"{figures['memory_gb']:.2f} GB")
    if left is not None:
        parts.append(f"{duration(left)} left")
    if figures["skipped"]:
        parts.append(f"skipped {figures['skipped']:.0f}")
    shown = [f"{name} {_number(figures[name])}" for name in terms if name in figures]
    return "  ".join([*parts, f"spread {_number(figures['spread'])}", *shown])


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _tag(name: str) -> str:
    """Where a figure stands in TensorBoard: losses, gradients and speed apart."""
    if "/" in name:
        return name
    speed = ("seconds", "images_per_second", "data_wait", "memory_gb", "mfu")
    return f"speed/{name}" if name in speed else f"train/{name}"
