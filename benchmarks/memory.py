"""What a call costs besides time: peak memory, kernel launches on a GPU, dispatched operators on the CPU.

On a GPU the caching allocator counts the peak. On the CPU it is the high-water mark of the process's resident memory
(VmHWM, reset through /proc/self/clear_refs) above what was resident before the call, with the allocator's free pages given
back first. Unlike the profiler's memory events, that sees scratch buffers which a native kernel takes from malloc, so an op
cannot look small by allocating behind PyTorch's back; memory that is reserved and never touched does not count. Blocks below
the allocator's mapping threshold (32 MiB) may land in other holes of a fragmented heap each time, and the pages of the old
ones stay: there the reading is an upper bound. Where the kernel offers no such reset, the profiler's events serve, and the
record says so.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import synchronize


def peak_bytes(run: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """The most memory that ``run`` holds at once beyond what was held before, and how that was read.

    ``run`` should have run before, so that caches and compiled code exist already.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, "cuda allocator"
    try:
        return _peak_resident(run), "resident"
    except OSError:
        return _peak_of_profiler(run), "profiler"


def _peak_resident(run: Callable[[], object]) -> int:
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = run()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no field {field}")


def _peak_of_profiler(run: Callable[[], object]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    del result
    held = peak = 0
    events = (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class _CountOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def work(run: Callable[[], object], device: torch.device) -> tuple[int, float | None]:
    """What one call launches, and the milliseconds in which the GPU works on it.

    Kernels, copies and fills on a GPU; work of several streams at the same time counts once. On the CPU, operators dispatched
    below autograd, and None.
    """
    if device.type == "cuda":
        synchronize(device)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            run()
            synchronize(device)
        events = device_events(profile)
        return len(events), covered((event.time_range.start, event.time_range.end) for event in events) / 1e3
    with _CountOperators() as counter:
        run()
    return counter.count, None


def device_events(profile: torch.profiler.profile) -> list:
    """What a GPU did: kernels, copies and fills, without the ranges that PyTorch's optimisers and users name."""
    return [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
