"""`python -m benchmarks.run PART ...` measures without pytest and writes the machine's results file record by record.

A part is `ceilings`, `ops`, `model`, `train`, `launch`, `encoder`, or the name of one file (`refine` for bench_refine.py). A case
that fails or is wrong is written as such and the next one runs; the exit status is then 1. `--seconds` ends the run in time,
what was not begun is listed, and the exit status is 3 (4 where others failed); the same command with `--new` goes on.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

import torch

from benchmarks import harness
from benchmarks.results import ROOT, Results, default_path, load_mark

UNFINISHED, BOTH = 3, 4  # exit statuses: some cases were not begun; and others failed
PARTS = ("ceilings", "ops", "model", "train", "launch", "encoder")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    device = torch.device(options.device)
    path = Path(options.output) if options.output else default_path(device)
    if options.quick and not options.output:
        path = ROOT / "build" / "quick" / path.name  # a quick figure never replaces a measured one
    results = Results(path, device)
    print(f"{results.data['environment']['machine']}, PyTorch {torch.__version__}, into {path}", flush=True)
    mark = load_mark()
    if mark["load_average"] > 0.5:
        told = "records taken so are marked and not shown" if "loaded" in mark else "their work is in these times"
        print(f"load average {mark['load_average']:.1f} on {mark['cores']} cores: others run here, {told}", flush=True)
    ceilings = {} if "ceilings" in options.parts else results.recent_ceilings(options.quick)
    if not ceilings:
        ceilings = harness.ceilings_of(device, options.quick)
        results.set_ceilings({**ceilings, "quick": options.quick})
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in ceilings["matrix_tflop_s"].items())
    print(f"ceilings: copy {ceilings['copy_gb_s']:.4g} GB/s; matrix TFLOP/s {rates}", flush=True)
    failed = unfinished = 0
    for name, module in modules(options.parts):
        bad, left = _run(name, module, results, options, device)
        failed, unfinished = failed + bad, unfinished + left
    return (BOTH if failed else UNFINISHED) if unfinished else int(bool(failed))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.split("\n\n")[0])
    known = tuple(dict.fromkeys((*PARTS, *_files())))  # some parts are one file
    parser.add_argument("parts", nargs="+", help=", ".join(known))
    parser.add_argument("--device", default=harness.default_device().type, choices=("cpu", "cuda"))
    parser.add_argument("--output", help="results file (default: benchmarks/results/<machine>.json)")
    parser.add_argument("--quick", action="store_true", help="few rounds, short shapes, no torch.compile")
    parser.add_argument("--filter", default="", help="regular expression on the case's name")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this long")
    parser.add_argument("--case-seconds", type=float, help="timing a case, about")
    parser.add_argument("--new", action="store_true", help="leave out what this commit has measured in that file")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in known:
            parser.error(f"no part {part!r}; there are {', '.join(known)}")
    options.begin = time.monotonic()
    return options


def _files() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def modules(parts: list[str] | None = None) -> list[tuple[str, ModuleType]]:
    """The files of these parts by name; None: all."""
    found = [(name, importlib.import_module(f"benchmarks.bench_{name}")) for name in _files()]
    return [(name, module) for name, module in found if parts is None or name in parts or module.PART in parts]


def _run(
    name: str, module: ModuleType, results: Results, options: argparse.Namespace, device: torch.device
) -> tuple[int, int]:
    """How many cases failed, and how many were not begun."""
    try:
        cases = [c for c in module.cases(device, options.quick) if re.search(options.filter, str(c))]
    except harness.Unavailable as reason:
        print(f"{name}: skipped, {reason}", flush=True)
        return 0, 0
    if options.new:
        cases = [c for c in cases if not results.has(c.record(), compiled=not options.no_compile)]
    failed = 0
    for i, case in enumerate(cases):
        if time.monotonic() - options.begin > options.seconds:
            print(f"{name}: out of time, not begun: {', '.join(str(c) for c in cases[i:])}", flush=True)
            return failed, len(cases) - i
        try:
            record = harness.measure(
                case, results.ceilings, options.quick, options.case_seconds, compiled=not options.no_compile
            )
            print(_line(case, record), flush=True)
        except harness.Unavailable as reason:
            print(f"{case}: skipped, {reason}", flush=True)
            continue
        except Exception as error:
            if not isinstance(error, harness.Incorrect):
                traceback.print_exc()
            record = {**case.record(), "failed": str(error)[:500] or type(error).__name__}
            print(f"{case}: FAILED, {error}", file=sys.stderr, flush=True)
            failed += 1
            if lost(error):
                results.add(record)
                print(f"{name}: the device is lost to this process, not begun: {', '.join(map(str, cases[i + 1 :]))}")
                return failed, len(cases) - i - 1
        results.add(record)
    return failed, 0


def lost(error: Exception) -> bool:
    """Whether every later call of this process would fail as well: a kernel has faulted on a CUDA device."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _line(case: harness.Case, record: dict) -> str:
    times = "  ".join(f"{name} {spread['median']:.4g}" for name, spread in record["times_ms"].items())
    rates = f"{record['tflop_s']:.4g} TFLOP/s, {record['gb_s']:.4g} GB/s"
    return f"{case}: {times} ms; {record.get('ratio_eager', '-')}x eager, {rates}, error {record['error']['ours']:.2g}"


if __name__ == "__main__":
    sys.exit(main())
