"""`python -m benchmarks.load` measures the CPU ops and one image through tiny while every core has a busy process.

The other benchmarks want a quiet machine. This one asks what is left of it beside other programs: a call that waits for all
of its threads waits for the scheduler, milliseconds for work of microseconds. It times each op quiet with one thread, quiet
with all threads, and with all threads beside one spinning process for each core, ours and plain PyTorch in turns. One image
through tiny runs in processes of its own, because OpenMP reads how long its threads spin (GOMP_SPINCOUNT, OMP_WAIT_POLICY)
when it starts. The results file lies in benchmarks/results/load, apart from those that benchmarks.report reads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from benchmarks import bench_frames, bench_refine, results
from benchmarks.harness import Case

CPU = torch.device("cpu")
CONDITIONS = ("quiet, one thread", "quiet, all threads", "loaded, all threads")
# How one image's process waits for its OpenMP threads; "one thread" has none.
WAITING = {
    "as installed": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: pass"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="ops, image; both by default")
    parser.add_argument("--quick", action="store_true", help="few calls of the smallest shapes")
    parser.add_argument("--output", type=Path, help="results file (default: benchmarks/results/load/<machine>.json)")
    parser.add_argument(
        "--one-image", action="store_true", help=argparse.SUPPRESS
    )  # the process that measures an image
    options = parser.parse_args(arguments)
    if options.one_image:
        print(json.dumps(one_image(options.quick)))
        return 0
    parts = options.parts or ["ops", "image"]
    if unknown := [part for part in parts if part not in ("ops", "image")]:
        parser.error(f"no part {unknown[0]!r}; there are ops, image")
    path = options.output
    if path is None:
        folder = results.ROOT / "build" / "quick" if options.quick else results.FOLDER
        path = folder / "load" / results.default_path(CPU).name
    record = {"machine": results.machine_name(CPU), "pytorch": torch.__version__, "commit": results.commit()}
    record |= {"busy_processes": cores(), "milliseconds": "median of a call", "quick": options.quick}
    if path.exists():
        record = json.loads(path.read_text()) | record
    if "ops" in parts:
        record["ops"] = ops(options.quick)
    if "image" in parts:
        record["image"] = image(options.quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)
    return 0


def ops(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds by op, by condition, of ours and of plain PyTorch."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    threads = torch.get_num_threads()
    try:
        for case in cases(quick):
            generator = torch.Generator().manual_seed(0)
            inputs = case.inputs(generator)
            calls = {"ours": lambda c=case, i=inputs: c.ours(*i), "eager": lambda c=case, i=inputs: c.eager(*i)}
            times = found[str(case)] = {}
            for condition in CONDITIONS:
                torch.set_num_threads(1 if "one" in condition else threads)
                with torch.no_grad(), busy() if "loaded" in condition else nullcontext():
                    times[condition] = medians(calls, 0.05 if quick else 2.0)
            told = "  ".join(f"{c} {t['ours']:.3f} ({t['eager']:.3f})" for c, t in times.items())
            print(f"{case}: {told} ms (plain PyTorch)", flush=True)
    finally:
        torch.set_num_threads(threads)
    return found


def cases(quick: bool) -> Iterator[Case]:
    yield bench_frames.frames_case(512, CPU, backward=False)
    if quick:
        return
    yield bench_frames.pointnet_case(1, 778, torch.float32, CPU, backward=False)
    for batch in (1, 8, 32):
        yield bench_refine.case(batch, "pyramid", 256, torch.float32, CPU, backward=False)


def image(quick: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of one image through tiny by the way of waiting, quiet and loaded."""
    found: dict[str, dict[str, float]] = {}
    command = [sys.executable, "-m", "benchmarks.load", "--one-image", *(["--quick"] if quick else [])]
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    for name, variables in WAITING.items():
        done = subprocess.run(command, cwd=results.ROOT, env=clean | variables, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"benchmarks.load: one image failed: {done.stderr.strip().splitlines()[-1]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"one image, {name}: " + "  ".join(f"{k} {v:.1f}" for k, v in found[name].items()) + " ms", flush=True)
        if quick:
            break
    return found


def one_image(quick: bool) -> dict[str, float]:
    """Milliseconds of one image through tiny in this process, quiet and loaded."""
    from benchmarks import model_inputs

    run = tiny()
    inputs = model_inputs.inputs(run.config.crop_size, 1, torch.Generator().manual_seed(0))
    times = {}
    for condition in ("quiet", "loaded"):
        with torch.no_grad(), busy() if condition == "loaded" else nullcontext():
            times[condition] = medians({"ours": lambda: run(inputs)}, 0.05 if quick else 2.5)["ours"]
    return times


def tiny() -> torch.nn.Module:
    from amt.model import AMT
    from amt.model.config import ModelConfig

    torch.manual_seed(0)
    return AMT(ModelConfig(size="tiny")).eval()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def busy() -> Iterator[None]:
    """One spinning process for each core."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(cores())]
    try:
        time.sleep(0.3)  # they have started
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def medians(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each call; they take turns for about ``seconds``, at least five times."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: round(1e3 * statistics.median(sample), 4) for name, sample in times.items()}


if __name__ == "__main__":
    sys.exit(main())
