"""How long a call takes: interleaved, on rotated inputs, synchronised, with and without a CUDA graph.

Everything that is compared is timed in the same rounds, one after the other, so that a machine that slows down slows all
of them. A sample is a group of calls long enough for the clock; inputs rotate from call to call, so that no call finds its
own inputs in the cache unless all sets fit there together.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

SHORTEST_SAMPLE = 1e-3  # s: calls are grouped until a sample lasts this long


@dataclass(frozen=True)
class Spread:
    """Milliseconds a call: the median and the 20 % and 80 % points over the rounds."""

    median: float
    p20: float
    p80: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        p20, median, p80 = torch.tensor(seconds, dtype=torch.float64).quantile(
            torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
        )
        return cls(1e3 * median.item(), 1e3 * p20.item(), 1e3 * p80.item(), len(seconds))

    def as_json(self) -> dict[str, float]:
        return {key: round(value, 6) for key, value in asdict(self).items()}


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished; nothing to wait for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds a call over ``calls`` calls in a row: CUDA events around the backlog, or the host's clock on the CPU."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def interleaved(
    runs: dict[str, Callable[[], object]], device: torch.device, rounds: int, limit: float
) -> dict[str, Spread]:
    """Times every entry of ``runs`` in turn, round after round; on the CPU each has one call outside the clock first.

    Args:
        runs: name -> a call without arguments; each must be warm.
        rounds: rounds at most; at least three are run.
        limit: seconds after which no new round is begun.
    """
    calls = {}
    for name, run in runs.items():
        synchronize(device)
        once = min(seconds(run, 1, device) for _ in range(2))
        calls[name] = max(1, min(1000, round(SHORTEST_SAMPLE / max(once, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    begin = time.perf_counter()
    for i in range(max(3, rounds)):
        if i >= 3 and time.perf_counter() - begin > limit:
            break
        for name in order[i % len(order) :] + order[: i % len(order)]:  # nobody always follows the same neighbour
            # clears the traces of its predecessor: workers asleep (2 ms to wake), memory given back
            if device.type == "cpu":
                runs[name]()
            synchronize(device)
            samples[name].append(seconds(runs[name], calls[name], device))
    return {name: Spread.of(values) for name, values in samples.items()}


def rotating(function: Callable, input_sets: Sequence[tuple]) -> Callable[[], object]:
    """A call without arguments that takes the next set of inputs each time."""
    sets = itertools.cycle(input_sets)
    return lambda: function(*next(sets))


def captured(function: Callable, input_sets: Sequence[tuple]) -> tuple[Callable[[], None], int]:
    """A CUDA graph that runs ``function`` once over every set, and how many calls one replay holds.

    Raises whatever the capture raises: an op that synchronises cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for inputs in input_sets:
            function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [function(*inputs) for inputs in input_sets]  # the graph's outputs live as long as the graph
    replay = graph.replay

    def run(_outputs=outputs, _graph=graph) -> None:
        replay()

    return run, len(input_sets)
