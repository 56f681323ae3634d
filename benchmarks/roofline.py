"""`python -m benchmarks.roofline FILE.csv`: what Nsight Compute measured, as a table with each kernel's share of its ceiling.

The file is what ``ncu --import REPORT --csv --page raw`` prints. The share is the larger one of the memory's and the
multiprocessors' throughput, in percent of their peak: a kernel far from both waits, for latency or for launches.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

KERNEL, TIME = "Kernel Name", "gpu__time_duration.sum"
MEMORY = "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"
COMPUTE = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
TENSOR = "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active"
REGISTERS = "launch__registers_per_thread"
TO_US = {"nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3, "second": 1e6, "s": 1e6}


class Kernel(NamedTuple):
    """Medians over a kernel's launches."""

    name: str  # without the arguments of its call
    launches: int
    us: float  # of one launch
    memory: float | None  # %, of the peak throughput; so are the next two
    compute: float | None
    tensor: float | None
    registers: float | None

    @property
    def share(self) -> float | None:
        """%, of the nearer of the two ceilings."""
        return max((figure for figure in (self.memory, self.compute) if figure is not None), default=None)


def read(text: str) -> list[Kernel]:
    """The kernels, those that take most time together first.

    Raises:
        ValueError: it is not what ncu prints, or lacks the time of kernels; the message has the remedy.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]  # ncu's messages come before
    rows = list(csv.DictReader(lines))
    if len(rows) < 2 or KERNEL not in rows[0] or TIME not in rows[0]:
        raise ValueError(
            "no kernels are in it: print it by `ncu --import REPORT --csv --page raw`, of a run with --set full"
        )
    units, *launches = rows  # the first row below the names holds units
    if units[TIME] not in TO_US:
        raise ValueError(f"the unit of {TIME} is {units[TIME]!r}, not one of {', '.join(TO_US)}")
    kernels: dict[str, list[dict]] = {}
    for launch in launches:
        kernels.setdefault(launch[KERNEL], []).append(launch)
    found = []
    for name, group in kernels.items():
        time = statistics.median(_numbers(group, TIME)) * TO_US[units[TIME]]
        figures = (_median(group, metric) for metric in (MEMORY, COMPUTE, TENSOR, REGISTERS))
        found.append(Kernel(name.replace("(anonymous namespace)::", "").partition("(")[0], len(group), time, *figures))
    return sorted(found, key=lambda kernel: -kernel.us * kernel.launches)


def table(kernels: list[Kernel]) -> str:
    """The Markdown table."""
    rows = [
        [k.name, str(k.launches), f"{k.us:.1f}", *map(_said, (k.memory, k.compute, k.tensor, k.registers, k.share))]
        for k in kernels
    ]
    names = ("kernel", "launches", "µs", "memory, %", "multiprocessors, %", "tensor cores, %", "registers")
    head = [*names, "share of the ceiling, %"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _numbers(group: list[dict], metric: str) -> list[float]:
    return [float(launch[metric].replace(",", "")) for launch in group if launch.get(metric)]


def _median(group: list[dict], metric: str) -> float | None:
    values = _numbers(group, metric)
    return statistics.median(values) if values else None


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("roofline: expected one file, what `ncu --import REPORT --csv --page raw` prints", file=sys.stderr)
        return 2
    try:
        print(table(read(Path(arguments[0]).read_text())))
    except (OSError, ValueError) as error:
        print(f"roofline: {arguments[0]}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
