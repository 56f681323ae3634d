"""What a run writes down: JSON lines, one a step and one a validation, and the curves as a picture."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amt.files import write_text

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
STEPS, VALIDATIONS = "log.jsonl", "validation.jsonl"  # in train.output
Row = dict[str, Any]


class JsonLines:
    """A file of JSON objects, one a line, each with its ``step``; numbers that are not finite become null.

    A resumed run drops the lines of the steps that it does again; the rest of the file is copied, and replaced by one rename.

    Args:
        path: None writes nothing, as the ranks beside the first one.
        first_step: lines of this step and of later ones are dropped.
    """

    def __init__(self, path: Path | None, first_step: int):
        self.path = path
        if path is None:
            return
        if not path.is_file() and path.with_suffix(".csv").is_file():
            log.warning("%s is an older version's and stays as it is; %s goes on", path.with_suffix(".csv"), path.name)
        rows = read_log(path) if path.is_file() else []
        write_text(path, _lines(row for row in rows if row["step"] < first_step))

    def append(self, rows: list[Row]) -> None:
        if self.path is None:
            return
        if not self.path.is_file():
            log.warning("%s is gone: it is written anew from this step on", self.path)
            write_text(self.path, "")
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_lines(rows))
        except OSError as error:
            error.filename = str(self.path)  # a full disk is met where no name is known
            raise


class StepLog:
    """``log.jsonl``, one line a step. Values may be tensors: they stay on their device until :meth:`flush` reads all at once."""

    def __init__(self, path: Path | None, first_step: int):
        self.file = JsonLines(path, first_step)
        self.waiting: list[Row] = []

    def add(self, **values: Any) -> None:
        """Notes one step."""
        self.waiting.append(values)

    def flush(self, figures: Callable[[int], dict[str, float]] = lambda steps: {}) -> list[Row]:
        """Appends the noted steps to the file and returns them, tensors as numbers: here training waits for its device.

        Args:
            figures: of so many steps, asked for when the device has done them; they go into the line of each.
        """
        rows, self.waiting = self.waiting, []
        places = [(row, name) for row in rows for name, value in row.items() if isinstance(value, Tensor)]
        if places:
            numbers = torch.stack([row[name].float() for row, name in places]).tolist()
            for (row, name), number in zip(places, numbers):
                row[name] = number
        shared = figures(len(rows)) if rows else {}
        rows = [{**row, **shared} for row in rows]
        self.file.append(rows)
        return rows


def read_log(path: Path) -> list[Row]:
    """The lines of a log, a broken last one left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def mean_rows(rows: list[Row]) -> Row:
    """Of each number its mean over the rows in which it is finite; of ``step``, rates and counts the last row's."""
    means = {}
    for name, last in rows[-1].items():
        values = [row[name] for row in rows if isinstance(row.get(name), float) and isfinite(row[name])]
        keeps = name in ("step", "epoch", "lr", "skipped", "bad_steps") or not values
        means[name] = last if keeps else sum(values) / len(values)
    return means


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps({name: _plain(value) for name, value in row.items()}) + "\n" for row in rows)


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if isfinite(value) else None


def smoothed(values: np.ndarray, window: int = 50) -> np.ndarray:
    """float64 [N]: at each place the mean of the last ``window`` values that are finite; NaN where none of them is."""
    import numpy as np

    known = np.isfinite(values)
    sums, counts = (np.cumsum(np.insert(x, 0, 0.0)) for x in (np.where(known, values, 0.0), known.astype(np.float64)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    counts = counts[ends] - counts[starts]
    return np.where(counts > 0, (sums[ends] - sums[starts]) / np.maximum(counts, 1), np.nan)


def draw_curves(folder: Path, picture: Path, terms: list[str]) -> None:
    """The loss, its terms and the learning rate over the steps, smoothed over fifty steps, and the validations', as a PNG.

    Args:
        folder: of ``log.jsonl`` and, where there is one, ``validation.jsonl``.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import NullFormatter

    rows, checks = (read_log(path) if (path := folder / name).is_file() else [] for name in (STEPS, VALIDATIONS))
    steps = np.array([row["step"] for row in rows])

    def values(rows: list[Row], name: str) -> np.ndarray:
        return np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)

    figure, axes = plt.subplots(1, 3 if checks else 2, figsize=(16 if checks else 11, 4), layout="constrained")
    left, right = axes[:2]
    left.plot(steps, smoothed(values(rows, "loss")), color="black", label="training")
    left.set(xlabel="step", ylabel="loss", yscale="log", title="total loss")
    rate = left.twinx()
    rate.plot(steps, values(rows, "lr"), color="tab:gray", linewidth=0.8)
    rate.set_ylabel("learning rate", color="tab:gray")
    curves = {name: smoothed(values(rows, name)) for name in terms}
    right.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)
    for name in sorted(
        terms, key=lambda name: -np.nan_to_num(curves[name][-1:]).sum()
    ):  # as the curves end, from above
        right.plot(steps, curves[name], label=name, linewidth=1)
    right.set(xlabel="step", yscale="log", title="terms, before their weights")
    right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    if checks:
        places = [row["step"] for row in checks]
        left.plot(places, values(checks, "loss"), "o-", color="tab:red", markersize=3, label="validation")
        left.legend(fontsize=7)
        for name in (name for name in checks[-1] if name.endswith("_mm")):
            axes[2].plot(places, values(checks, name), "o-", markersize=3, label=name.removesuffix("_mm"))
        axes[2].set(xlabel="step", ylabel="mean error, mm", title="validation")
        axes[2].set_ylim(bottom=0)
        axes[2].legend(fontsize=7)
    for axis in axes[:2]:
        axis.yaxis.set_major_formatter("{x:g}")
    low, high = left.get_ylim()
    left.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
    right.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(picture, dpi=110)
    plt.close(figure)
