"""Where figures and pictures of a run go beside its own files: TensorBoard, Weights & Biases, trackio.

A logger that fails is left out from then on, with one line. It never ends a run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

log = logging.getLogger(__name__)
TENSORBOARD = "tensorboard"  # folder in train.output


class Logger(Protocol):
    def scalars(self, step: int, figures: dict[str, float]) -> None: ...

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """``image``: uint8 [H, W, 3], RGB."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files; what an earlier run wrote of ``first_step`` and later is hidden."""

    def __init__(self, output: Path, config: dict[str, Any], first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(output / TENSORBOARD), purge_step=first_step + 1, flush_secs=30)

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Tracker:
    """Weights & Biases, or trackio, which has the same calls. A run that continues is the same run there."""

    def __init__(self, module: str, output: Path, config: dict[str, Any]):
        self.module = importlib.import_module(module)
        name = output.resolve()
        options: dict[str, Any] = {"project": "amt", "name": name.name, "config": config, "resume": "allow"}
        if module == "wandb":
            identity = hashlib.sha256(str(name).encode()).hexdigest()[:16]
            options |= {"id": identity, "dir": str(output), "settings": self.module.Settings(console="off")}
        self.run = self.module.init(**options)

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        self.module.log(figures, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.module.log({name: self.module.Image(image)}, step=step)

    def close(self) -> None:
        self.module.finish()


class Loggers:
    """All loggers of a run as one. ``auto`` is TensorBoard where it is installed: nothing leaves the machine unasked.

    Args:
        choice: ``train.logger``: a name of :data:`amt.train.config.LOGGERS`, or several.
        config: of the run, as plain values.
        first_step: with which the run begins or continues.
    """

    def __init__(self, choice: str | list[str], output: Path, config: dict[str, Any], first_step: int):
        self.each: dict[str, Logger] = {}
        for name in [choice] if isinstance(choice, str) else choice:
            if name == "auto":
                if importlib.util.find_spec("tensorboard") is None:
                    log.info("TensorBoard is not installed (pip install tensorboard): the run has its own files only")
                    continue
                name = "tensorboard"
            if name == "none" or name in self.each:
                continue
            make = (
                (lambda: TensorBoard(output, config, first_step))
                if name == "tensorboard"
                else (lambda name=name: Tracker(name, output, config))
            )
            made = self._tried(name, make)
            if made is not None:
                self.each[name] = made

    def scalars(self, step: int, figures: dict[str, Any]) -> None:
        """Writes the finite numbers of ``figures`` down."""
        finite = {name: value for name, value in figures.items() if isinstance(value, float) and np.isfinite(value)}
        self._all(lambda logger: logger.scalars(step, finite))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._all(lambda logger: logger.picture(step, name, image))

    def close(self) -> None:
        self._all(lambda logger: logger.close())
        self.each = {}

    def _all(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self.each.items()):
            self._tried(name, lambda logger=logger: call(logger))

    def _tried(self, name: str, call: Callable) -> Any:
        """What ``call`` returns; None where it fails, and then that logger is left out."""
        try:
            return call()
        except Exception as error:  # the libraries raise what they like: no network, no key, a full disk
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            missing = isinstance(error, ImportError) and error.name == name
            remedy = f"; pip install {name}" if missing else ""
            log.warning("train.logger=%s is left out from here on: %s%s", name, reason, remedy)
            self.each.pop(name, None)
            return None
