"""`python -m benchmarks.exports CHECKPOINT data.root=FOLDER` exports a checkpoint in every form and compares the answers.

Every form is opened in a process of its own and gets the same validation crops. The differences from the checkpoint's answers go
into benchmarks/results/exports/<machine>.json, from which `python -m benchmarks.report` makes the table of docs/benchmarks.md.
`--times` measures one crop at a time besides, as a median of 50 calls after 10; nothing else should run then. `--folder` keeps
the exports, and takes those that are there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.results import FOLDER, commit, machine_name, slug

RESULTS = FOLDER / "exports"
BASE = ("checkpoint", "float32")  # amt.load with the kernels of this machine
CASES = (
    BASE, ("safetensors", "fp8"), ("torch-export", "float32"), ("aoti", "float32"), ("onnx", "float32"),
    ("openvino", "float32"), ("openvino", "int8"),
)  # fmt: skip
CALLS, WARM_UP = 50, 10
THREADS = 2


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--one"]:
        return _one(*arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("words", nargs="*", metavar="data.KEY=VALUE", help="the set whose validation crops are taken")
    parser.add_argument("--times", action="store_true", help="measure times, too")
    parser.add_argument("--crops", type=int, default=100, help="that calibrate int8; as many others are compared")
    parser.add_argument("--folder", help="where exports go and are looked for (default: a temporary one)")
    options = parser.parse_args(arguments)
    if options.folder:
        return _compare(options, Path(options.folder))
    with TemporaryDirectory() as folder:
        return _compare(options, Path(folder))


def _compare(options: argparse.Namespace, folder: Path) -> int:
    import torch

    from amt.export.differences import differences

    torch.set_num_threads(THREADS)
    folder.mkdir(parents=True, exist_ok=True)
    _write_crops(options, folder / "crops.npz")
    rows: list[dict[str, Any]] = []
    expected = None
    for form, precision in CASES:
        place = folder / (form if precision == "float32" else f"{form}-{precision}")
        if not (place / "export.json").is_file():
            as_form = "safetensors" if form == "checkpoint" else form
            words = [options.checkpoint, "--to", as_form, "--precision", precision, "--out", str(place)]
            more = [*options.words, "--crops", str(options.crops)] if precision != "float32" else []
            subprocess.run([sys.executable, "-m", "amt.export", *words, *more], check=True)
        found = folder / "found.npz"
        calls = CALLS if options.times else 0
        code = [sys.executable, "-m", "benchmarks.exports", "--one", str(place), str(folder / "crops.npz"), str(found)]
        done = subprocess.run([*code, str(calls)], check=True, capture_output=True, text=True)
        answers = dict(np.load(found))
        expected = answers if expected is None else expected
        files = json.loads((place / "export.json").read_text())["files"]
        row = {"export": form, "precision": precision, "bytes": sum((place / name).stat().st_size for name in files)}
        rows.append(row | differences(expected, answers) | {"ms": json.loads(done.stdout.splitlines()[-1])})
        print(row["export"], precision, {k: v for k, v in rows[-1].items() if k not in row}, flush=True)
    content = {
        "schema": 1,
        "machine": machine_name(torch.device("cpu")),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        "crops": len(next(iter(expected.values()))),
        "rows": rows,
    }
    path = RESULTS / f"{slug(content['machine'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path)
    return 0


def _write_crops(options: argparse.Namespace, path: Path) -> None:
    """Validation crops that calibrated nothing."""
    from amt.config import compose
    from amt.export.config import PROGRAM
    from amt.export.crops import rows, set_crops
    from amt.model.checkpoint import read_record

    data = compose(PROGRAM, options.words, read_record(options.checkpoint))["data"]
    np.savez(path, **rows(set_crops(data, "val", 2 * options.crops), slice(1, None, 2)))


def _one(place: str, crops: str, found: str, calls: str) -> int:
    """Opens one export, writes its answers to all crops, and prints the median of single calls in ms, or null."""
    from amt.export.crops import rows
    from amt.export.opened import open_export

    export, arrays = open_export(place, THREADS), dict(np.load(crops))
    np.savez(found, **export(arrays))
    times = []
    for i in range(int(calls) and WARM_UP + int(calls)):
        single = rows(arrays, slice(i % len(arrays["right"]), i % len(arrays["right"]) + 1))
        start = time.perf_counter()
        export(single)
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps(median(times[WARM_UP:]) if times else None))
    return 0


def table(folder: Path = RESULTS) -> str:
    """The Markdown table of the newest results file; one line where there is none. Raises ValueError for another file."""
    if not list(folder.glob("*.json")):
        return "Not yet measured."
    try:
        files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        newest = max(files, key=lambda file: file["date"])
        base = newest["rows"][0]["ms"]
        rows = [
            [
                "the checkpoint itself" if row["export"] == BASE[0] else f"`{row['export']}`",
                row["precision"],
                f"{row['bytes'] / 1e6:.1f}",
                *(_millimetres(row[name]) for name in ("joints_mm", "joints_max_mm", "aligned_mm", "object_mm")),
                f"{row['contact']:.3f}",
                "not yet measured" if base is None or row["ms"] is None else f"{row['ms'] / base:.2f} ×",
            ]
            for row in newest["rows"]
        ]
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{folder.name}: cannot be read ({error}); run `python -m benchmarks.exports`") from error
    head = [
        "export",
        "precision",
        "MB",
        "joints, mm",
        "at most",
        "wrist on wrist",
        "object, mm",
        "contact",
        "time of one crop",
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([f"{newest['crops']} validation crops, {newest['machine']}:", "", *lines])


def _millimetres(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
