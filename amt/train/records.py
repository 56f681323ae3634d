"""What a run writes down: one CSV line a step, and the curves as a picture."""

from __future__ import annotations

import csv
import io
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amt.files import write_text

log = logging.getLogger(__name__)


class StepLog:
    """``log.csv``, one line a step. Values may be tensors: they stay on their device until :meth:`flush` reads all at once.

    A resumed run drops the lines of the steps that it does again; the rest of the file is copied, and replaced by one rename.
    """

    def __init__(self, path: Path, columns: list[str], first_step: int, batch_size: int):
        self.path, self.columns, self.batch_size = path, columns, batch_size
        self.waiting: list[dict[str, Any]] = []
        rows = read_log(path) if path.is_file() else []
        self._write([row for row in rows if int(row["step"]) < first_step])
        self.start = time.perf_counter()

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    def add(self, **values: Any) -> None:
        """Notes one step."""
        self.waiting.append(values)

    def flush(self) -> list[dict[str, Any]]:
        """Appends the noted steps to the file and returns them, tensors as numbers: here training waits for its device.

        Their time and throughput are means since the last call.
        """
        rows, self.waiting = self.waiting, []
        places = [(row, name) for row in rows for name, value in row.items() if isinstance(value, Tensor)]
        if places:
            numbers = torch.stack([row[name] for row, name in places]).tolist()
            for (row, name), number in zip(places, numbers):
                row[name] = number
        seconds, self.start = (time.perf_counter() - self.start) / max(1, len(rows)), time.perf_counter()
        rows = [{**row, "seconds": seconds, "images_per_second": self.batch_size / seconds} for row in rows]
        if not self.path.is_file():
            log.warning("%s is gone: it is written anew from this step on", self.path)
            self._write([])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", restval="")
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        return rows


def read_log(path: Path) -> list[dict[str, str]]:
    """The lines of a log, a broken last one left out."""
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]


def draw_curves(log: Path, picture: Path, terms: list[str]) -> None:
    """The total loss, its terms and the learning rate over the steps, smoothed over fifty steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    rows = read_log(log)
    steps = np.array([int(row["step"]) for row in rows])

    def smooth(name: str):
        values = np.array([float(row[name] or "nan") for row in rows])
        window = min(50, len(values))
        sums = np.cumsum(np.insert(values, 0, 0.0))
        ends = np.arange(1, len(values) + 1)
        starts = np.maximum(ends - window, 0)
        return (sums[ends] - sums[starts]) / (ends - starts)

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(steps, smooth("loss"), color="black")
    left.set(xlabel="step", ylabel="loss", yscale="log", title="total loss")
    rate = left.twinx()
    rate.plot(steps, [float(row["lr"]) for row in rows], color="tab:gray", linewidth=0.8)
    rate.set_ylabel("learning rate", color="tab:gray")
    for name in terms:
        right.plot(steps, smooth(name), label=name, linewidth=1)
    right.set(xlabel="step", yscale="log", title="terms, before their weights")
    right.legend(fontsize=7, ncols=2)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
