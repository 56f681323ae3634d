"""The instruments: what they read is what was there."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ceilings, memory, timing

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def test_spread_is_the_median_with_20_and_80_percent():
    spread = timing.Spread.of([i / 1e3 for i in (5, 1, 2, 3, 4)])
    assert (spread.median, spread.p20, spread.p80, spread.rounds) == pytest.approx((3, 1.8, 4.2, 5))


def test_interleaved_times_each_in_turn_and_calls_what_is_short_more_often():
    calls = {"slow": 0, "fast": 0}

    def run(name, seconds):
        calls[name] += 1
        time.sleep(seconds)

    spreads = timing.interleaved({"slow": lambda: run("slow", 4e-3), "fast": lambda: run("fast", 1e-4)}, CPU, 5, 10)
    assert spreads["slow"].rounds == spreads["fast"].rounds == 5
    assert 4 <= spreads["slow"].median < 4 * spreads["fast"].median * 40
    assert spreads["fast"].median < spreads["slow"].median / 2
    assert calls["fast"] > calls["slow"]


def test_interleaved_ends_in_time_but_not_before_three_rounds():
    assert timing.interleaved({"a": lambda: time.sleep(0.02)}, CPU, rounds=1000, limit=0.0)["a"].rounds == 3


def test_rotating_takes_the_next_set_each_time():
    seen = []
    run = timing.rotating(seen.append, [(1,), (2,)])
    for _ in range(3):
        run()
    assert seen == [1, 2, 1]


def _tensors(megabytes):
    return lambda: torch.ones(megabytes << 18).sum()  # float32


def test_peak_memory_of_tensors():
    run = _tensors(64)
    run()
    size, how = memory.peak_bytes(run, CPU)
    assert how in ("resident", "profiler")
    assert size == pytest.approx(64 << 20, rel=0.05)


def test_peak_memory_is_the_most_held_at_once_not_the_sum():
    """Blocks above 32 MiB, which get a mapping of their own, in a heap without holes: elsewhere it is an upper bound."""
    script = """if True:
        import torch
        from benchmarks import memory

        def run():
            for _ in range(4):
                torch.ones(64 << 18)

        run()
        print(memory.peak_bytes(run, torch.device("cpu"))[0])
    """
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert int(out) == pytest.approx(64 << 20, rel=0.05)


def test_peak_memory_sees_what_pytorch_did_not_allocate():
    def run():
        np.ones(32 << 18, dtype=np.float32).sum()

    run()
    size, how = memory.peak_bytes(run, CPU)
    if how == "resident":
        assert size == pytest.approx(32 << 20, rel=0.1)


def test_peak_memory_by_the_profiler_where_the_mark_cannot_be_reset(monkeypatch):
    def refused(run):
        raise PermissionError("/proc/self/clear_refs")

    monkeypatch.setattr(memory, "_peak_resident", refused)
    size, how = memory.peak_bytes(_tensors(8), CPU)
    assert how == "profiler"
    assert size == pytest.approx(8 << 20, rel=0.01)


def test_launches_on_the_cpu_are_dispatched_operators():
    x = torch.ones(4)
    assert memory.work(lambda: x.add(1).mul(2), CPU) == (2, None)


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(1, 3)], 2), ([(5, 6), (1, 3)], 3), ([(1, 4), (2, 3)], 3), ([(1, 4), (3, 6), (6, 7)], 6)],
)
def test_what_overlaps_counts_once(intervals, length):
    assert memory.covered(intervals) == length


def test_ceilings_name_every_rate_or_why_it_is_not_there():
    found = ceilings.measure(CPU, quick=True)
    assert found["copy_gb_s"] > 0.1
    assert found["matrix_tflop_s"]["float32"] > 1e-4
    for dtype in ("bfloat16", "float16", "float64", "float8_e4m3fn"):
        assert (dtype in found["matrix_tflop_s"]) != (dtype in found["unavailable"])
