"""How fast a run goes: images a second, the share of its time that it waits for data, MFU, memory and the time left."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from amt.model import AMT
from amt.model.summary import summarize

Item = TypeVar("Item")

# Dense TFLOP/s by NVIDIA's data sheets: bfloat16, TF32 and float32. The first name that is part of the device's counts.
PEAKS = {
    "H200 NVL": (835.5, 417.5, 60.0),
    "H200": (989.4, 494.7, 66.9),
    "H100 NVL": (835.5, 417.5, 60.0),
    "H100 PCIe": (756.4, 378.2, 51.2),
    "H100": (989.4, 494.7, 66.9),
    "A100": (311.9, 155.9, 19.5),
}


class Throughput:
    """The clocks of a run. Nothing here waits for the device: an interval ends when its losses have been read.

    Args:
        batch_size: images a step.
        flops: gives those of a training step, an image (:func:`training_flops`), which freezing changes; None leaves the MFU out.
        peak: FLOP/s of all devices together (:func:`peak_flops`); None leaves the MFU out.
    """

    def __init__(
        self, batch_size: int, device: torch.device, flops: Callable[[], float] | None = None, peak: float | None = None
    ):
        self.batch_size, self.device, self.flops, self.peak = batch_size, device, flops, peak
        self.pace: float | None = None  # s a step, smoothed over some intervals
        self.restart()

    def restart(self) -> None:
        """Begins an interval: what was done since the last one ended does not count."""
        self.start, self.waited = time.perf_counter(), 0.0

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time that each lets the loop wait is added up."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield item

    def interval(self, steps: int) -> dict[str, float]:
        """The figures of the interval that ends now with its ``steps``, and begins the next.

        ``seconds`` a step, ``images_per_second``, ``data_wait`` (share of the time, 0-1), ``memory_gb`` (peak of the process so
        far: PyTorch's on a GPU, else resident memory), and ``mfu`` (0-1) where the device's peak is known.
        """
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        seconds = elapsed / steps
        self.pace = seconds if self.pace is None else 0.7 * self.pace + 0.3 * seconds
        figures = {
            "seconds": seconds,
            "images_per_second": self.batch_size / seconds,
            "data_wait": min(self.waited / elapsed, 1.0),
            "memory_gb": _peak_memory(self.device) / 1e9,
        }
        if self.flops is not None and self.peak is not None:
            figures["mfu"] = self.flops() * figures["images_per_second"] / self.peak
        self.restart()
        return figures

    def left(self, steps: float, seconds: float | None = None) -> float | None:
        """s until ``steps`` more are done, at most ``seconds``; None before the first interval has ended."""
        if self.pace is None:
            return None
        return steps * self.pace if seconds is None else min(steps * self.pace, seconds)


def training_flops(model: AMT, num_points: int = 256) -> Callable[[], float]:
    """Counts the model once; the result gives the operations of a training step, an image, with what is trained at that time.

    They are those of the forward pass, and twice as many backward for what is trained.

    A part that is frozen in part counts by the share of its parameters that is trained. What checkpointing computes again does
    not count: it is the MFU of Chowdhery et al., "PaLM" (2022).
    """
    parts = {part.name: part.flops for part in summarize(model, batch_size=2, num_points=num_points).modules}
    children = dict(model.named_children())

    def trained(name: str) -> float:
        parameters = list(children[name].parameters()) if name in children else []
        total = sum(p.numel() for p in parameters)
        return sum(p.numel() for p in parameters if p.requires_grad) / total if total else 1.0

    return lambda: sum(flops * (1 + 2 * trained(name)) for name, flops in parts.items())


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """FLOP/s of a device's tensor cores, or of its CUDA cores in strict float32; None where it is not of :data:`PEAKS`."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    figures = next((values for part, values in PEAKS.items() if part in name), None)
    if figures is None:
        return None
    strict = torch.get_float32_matmul_precision() == "highest"
    return 1e12 * figures[0 if bf16 else 2 if strict else 1]


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
