"""``train.profile=10:20``: what steps 10 to 19 spend their time on, as a trace of PyTorch's profiler or for Nsight Systems."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from amt.kernels.ranges import recording
from amt.train.config import profiled_steps

log = logging.getLogger(__name__)
FOLDER = "profile"  # in train.output
NSIGHT = "AMT_PROFILER"  # "nsys": the steps are marked for Nsight Systems, which PyTorch's own profiler would disturb


class Profile:
    """A block around the steps of a run; call :meth:`before` with each step's number.

    Args:
        steps: ``train.profile``; None records nothing.
    """

    def __init__(self, steps: str | None, model: nn.Module, output: Path, device: torch.device):
        self.first, self.end = (0, 0) if steps is None else profiled_steps(steps)
        self.model, self.output, self.device = model, output, device
        self.running: ExitStack | None = None

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Begins before the first of the steps, ends before the one after the last."""
        if step >= self.end:
            self._stop()
        elif step >= self.first and self.running is None:
            self._start(step)

    def _start(self, step: int) -> None:
        self.running = ExitStack()
        if os.environ.get(NSIGHT) == "nsys":
            if self.device.type == "cuda":
                self.running.enter_context(torch.cuda.profiler.profile())
        else:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            path = self.output / FOLDER / f"from-step-{step}.json.gz"
            profiler = torch.profiler.profile(activities=activities, record_shapes=True)
            self.running.callback(self._export, profiler, path)
            self.running.enter_context(profiler)
        self.running.enter_context(recording(self.model))

    def _export(self, profiler: torch.profiler.profile, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            log.warning("%s: the profile cannot be written: %s", path, error)

    def _stop(self) -> None:
        if self.running is not None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # what was started belongs to these steps
            running, self.running = self.running, None
            running.close()
