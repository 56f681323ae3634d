"""How long a call takes, for the tables by which ops choose: medians, on a card of CUDA graphs.

Launches from Python would hide a kernel of 20 microseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

CALLS = 10  # in a graph


def median_ms(step: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Milliseconds of a call, the median of ``repeats``; calls before warm up. Raises where a graph cannot capture it."""
    for _ in range(3):
        step()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            step()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / CALLS)
    return statistics.median(times)
