"""What limits an op that misses its goal: `python -m benchmarks.missed` profiles each on this machine.

For every goal that the results file misses, the record furthest from it runs again. PyTorch's profiler gives the time line of
host and GPU (FOLDER/<case>.json.gz, for chrome://tracing or Perfetto). Nsight Compute gives each kernel's share of the card's
ceilings, where ncu is on the PATH. One sentence says what limits the op; it goes into the record and the table of goals.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from amt.startup import run_program
from benchmarks import harness, roofline, timing
from benchmarks.goals import GOALS, Goal
from benchmarks.memory import covered, device_events
from benchmarks.results import Results, default_path, key
from benchmarks.run import PARTS, UNFINISHED, modules
from benchmarks.tables import measured, number

CALLS = 10  # in a time line
SHOWN = 6  # kernels or operators
MOST_LAUNCHES = 40  # that Nsight Compute looks at
NEAR = 60  # %, of a ceiling: below it, a kernel waits for something else
HOST = 0.25  # share of a call from which on the host limits it
RANGE = "missed"  # around what Nsight Compute looks at
ELSEWHERE = {  # what is no case of benchmarks.run prints or profiles its own parts
    "video": "`python -m benchmarks.video` prints its stages",
    "crops": "`python -m benchmarks.data` prints every way",
}
# the files of each op's cases, bench_<name>.py: to make the cases of all files takes seconds, those of whole models more
FILES = {
    "refine": ("refine",), "hand_frames": ("frames",), "frame_pointnet": ("frames",), "pose_scores": ("pose_scores",),
    "attention": ("attention",), "attention fp8": ("attention",), "fp8 linear": ("fp8_linear",), "model": ("model",),
    "encoder": ("encoder", "model"), "encoder fp8": ("encoder",), "training step": ("train",),
}  # fmt: skip


class Timeline(NamedTuple):
    """Where a call's time goes; all in milliseconds a call."""

    call: float  # as the caller sees it, without the profiler
    gpu: float | None  # in which the GPU works; None on a CPU
    parts: dict[str, float]  # kernels of a GPU, operators (their own time) of a CPU, the longest first


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.missed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default=harness.default_device().type, choices=("cpu", "cuda"))
    parser.add_argument("--results", type=Path, help="results file (default: benchmarks/results/<machine>.json)")
    parser.add_argument(
        "--folder", type=Path, default=Path("build", "missed"), help="of the traces (default %(default)s)"
    )
    parser.add_argument("--case", help="in place of missed goals: a regular expression on the names of cases")
    parser.add_argument("--quick", action="store_true", help="with --case: of the short shapes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this long")
    parser.add_argument("--again", action="store_true", help="also what has been explained since it was measured")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)  # what ncu watches
    options = parser.parse_args(arguments)
    return run_program("benchmarks.missed", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    device = torch.device(options.device)
    if options.once:
        once(next(named(options.case, device, options.quick, options.file)))
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    begin, left = time.monotonic(), []
    if options.case is not None:
        for case in named(options.case, device, options.quick):
            print(f"== {case}", flush=True)
            explain(case, options)
        return 0
    results = Results(options.results or default_path(device), device)
    goals = list(misses(results.data, device.type))
    if not goals:
        print(f"{results.path}: no goal is missed")
    explained = {} if options.again else {key(r): r["limit"] for _, _, r in goals if r.get("limit")}
    for goal, value, record in goals:
        print(f"== {goal.text}: {number(value)} {goal.unit}, goal {goal.target()}", flush=True)
        same = key(record)
        if same not in explained:
            if time.monotonic() - begin > options.seconds:
                left.append(goal.text)
                continue
            case = case_of(record, device)
            if case is None:
                print(ELSEWHERE.get(record["op"], "no case of this commit measures it any more"))
                continue
            explained[same] = explain(case, options)
            results.amend(record, limit=explained[same])
        else:
            print(f"limit: {explained[same]}")
    if left:
        print(f"out of time, not begun: {', '.join(left)}")
    return UNFINISHED if left else 0


def misses(data: dict, device: str) -> Iterator[tuple[Goal, float, dict]]:
    """Every goal that a results file misses, the figure, and its record."""
    records = [record for _, record in measured([data]) if "failed" not in record]
    for goal in GOALS:
        found = goal.furthest(records) if goal.device == device else None
        if found is not None and not goal.met(found[0]):
            yield goal, *found


def case_of(record: dict, device: torch.device) -> harness.Case | None:
    """The case that measures the same."""
    for _, module in modules(files_of(record["op"])):
        try:
            for case in module.cases(device, False):
                if key(case.record()) == key(record):
                    return case
        except harness.Unavailable:
            continue
    return None


def files_of(op: str) -> list[str]:
    """The files whose cases measure an op; all parts for one that :data:`FILES` does not name."""
    return [*FILES[op], "launch"] if op in FILES else list(PARTS)


def named(pattern: str, device: torch.device, quick: bool, file: str | None = None) -> Iterator[harness.Case]:
    """The cases whose names match, of one file or of all; some are in two files."""
    seen = set()
    for name, module in modules(None if file is None else file.split(",")):
        try:
            for case in module.cases(device, quick):
                if re.search(pattern, str(case)) and str(case) not in seen:
                    seen.add(str(case))
                    yield case
        except harness.Unavailable as reason:
            print(f"{name}: skipped, {reason}", flush=True)


def explain(case: harness.Case, options: argparse.Namespace) -> str:
    """Prints where the time goes; returns what limits the case, in a sentence."""
    trace = options.folder / f"{re.sub('[^A-Za-z0-9.+-]+', '_', str(case))}.json.gz"
    found = timeline(case, trace)
    print(
        f"a call takes {found.call:.4g} ms" + ("" if found.gpu is None else f", the GPU works {found.gpu:.4g} ms of it")
    )
    for name, spent in list(found.parts.items())[:SHOWN]:
        print(f"  {spent:9.4f} ms  {name[:100]}")
    print(f"time line: {trace}", flush=True)
    kernels = nsight(case, options) if case.device.type == "cuda" else []
    if kernels:
        print(roofline.table(kernels), flush=True)
    limit = limit_of(found, kernels)
    print(f"limit: {limit}", flush=True)
    return limit


def timeline(case: harness.Case, trace: Path) -> Timeline:
    """Runs ours :data:`CALLS` times under the profiler and writes the trace."""
    run, gpu = harness.rotating_call(case), case.device.type == "cuda"
    for _ in range(3):
        run()
    timing.synchronize(case.device)
    call = 1e3 * sorted(timing.seconds(run, CALLS, case.device) for _ in range(3))[1]
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * gpu
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(CALLS):
            run()
        timing.synchronize(case.device)
    profile.export_chrome_trace(str(trace))
    parts: Counter[str] = Counter()
    if gpu:
        events = device_events(profile)
        for event in events:
            parts[event.name] += (event.time_range.end - event.time_range.start) / 1e3 / CALLS
        busy = covered((event.time_range.start, event.time_range.end) for event in events) / 1e3 / CALLS
        return Timeline(call, busy, dict(parts.most_common()))
    for event in profile.key_averages():
        parts[event.key] += event.self_cpu_time_total / 1e3 / CALLS
    return Timeline(call, None, dict(parts.most_common()))


def limit_of(found: Timeline, kernels: list[roofline.Kernel]) -> str:
    """What limits a call, from its time line and what Nsight Compute says of its kernels, if anything."""
    if found.gpu is not None and found.gpu < (1 - HOST) * found.call:
        return f"the host: the GPU waits {100 * (1 - found.gpu / found.call):.0f} % of a single call"
    if not found.parts:
        return "unknown: the profiler saw nothing"
    name, spent = next(iter(found.parts.items()))
    name = short(name)
    text = f"`{name}`, {100 * spent / sum(found.parts.values()):.0f} % of the time"
    kernel = next((k for k in kernels if short(k.name) == name and None not in (k.memory, k.compute)), None)
    if kernel is None:
        return text
    if kernel.share < NEAR:
        return (
            f"{text}, latency: memory at {kernel.memory:.0f} %, multiprocessors at {kernel.compute:.0f} % of their peak"
        )
    what = "memory" if kernel.memory >= kernel.compute else "multiprocessors"
    return f"{text}, {what} at {kernel.share:.0f} % of the peak"


def short(kernel: str) -> str:
    """A kernel's name without its return type, namespaces, template and call arguments."""
    plain = kernel.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.split(r"[(<]", plain)[0].split("::")[-1].strip()


def once(case: harness.Case) -> None:
    """One call inside an NVTX range, warm."""
    run = harness.rotating_call(case)
    for _ in range(2):
        run()
    timing.synchronize(case.device)
    open_range = torch.cuda.nvtx.range_start(RANGE)  # of the process: a backward pass launches from another thread
    run()
    timing.synchronize(case.device)
    torch.cuda.nvtx.range_end(open_range)


def nsight(case: harness.Case, options: argparse.Namespace) -> list[roofline.Kernel]:
    """What Nsight Compute measured of one call; nothing, and the reason printed, where it cannot run."""
    if shutil.which("ncu") is None:
        print("ncu is not on the PATH (it comes with the CUDA toolkit): no shares of the card's ceilings")
        return []
    report = options.folder / "kernels.ncu-rep"
    watch = ["ncu", "--set", "full", "--nvtx", "--nvtx-include", RANGE, "--launch-count", str(MOST_LAUNCHES)]
    watch += ["-f", "-o", str(report.with_suffix("")), sys.executable, "-m", "benchmarks.missed", "--once"]
    watch += ["--device", "cuda", "--file", ",".join(files_of(case.op)), "--case", f"^{re.escape(str(case))}$"]
    show = ["ncu", "--import", str(report), "--csv", "--page", "raw"]
    for command in ([*watch, "--quick"] if options.quick else watch, show):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            print(f"ncu ended with exit status {done.returncode}: {said[-1] if said else 'no message'}")
            return []
    try:
        return roofline.read(done.stdout)
    except ValueError as error:
        print(f"ncu: {error}")
        return []


if __name__ == "__main__":
    sys.exit(main())
