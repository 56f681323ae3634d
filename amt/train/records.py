"""What a run writes down: one CSV line a step, and the curves as a picture."""

from __future__ import annotations

import csv
from pathlib import Path


class StepLog:
    """``log.csv``, one line a step. A resumed run drops the lines of the steps that it does again."""

    def __init__(self, path: Path, columns: list[str], first_step: int):
        self.path, self.columns = path, columns
        kept = [row for row in read_log(path) if int(row["step"]) < first_step] if path.is_file() else []
        self.file = path.open("w", newline="")
        self.writer = csv.DictWriter(self.file, columns, extrasaction="ignore", restval="")
        self.writer.writeheader()
        self.writer.writerows(kept)

    def write(self, **values) -> None:
        self.writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
        self.file.flush()

    def close(self) -> None:
        self.file.close()


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
