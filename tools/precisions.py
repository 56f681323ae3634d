"""`python -m tools.precisions DATA` learns 32 pictures by heart in bf16 and in FP8, once a seed, and compares the errors.

`experiment=overfit` on the first 32 training pictures of DATA, a set in DexYCB's layout. The error is the wrist-aligned one on
these pictures, in float32, of the weights' average: held-out errors scatter by millimetres between seeds, these by tenths.
Finished runs in OUT are kept. Without a card FP8 is emulated. Words after DATA, such as train.schedule=cosine, go to every
training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.results import ROOT

PRECISIONS = ("bf16", "fp8")
PICTURES = 32


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.precisions", description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, help="folder that python -m amt.data.synthetic wrote")
    parser.add_argument(
        "words", nargs="*", help="words of python -m amt.train; take another OUT for each choice of them"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/precisions"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=300, help="of 16 images")
    parser.add_argument("--seed", type=int, action="append", help="0, 1 and 2 by default")
    parser.add_argument(
        "--precision", action="append", help=f"{' and '.join(PRECISIONS)} by default; float32 is another"
    )
    options = parser.parse_args(arguments)
    seeds, precisions = options.seed or [0, 1, 2], options.precision or PRECISIONS
    print("| seed | " + " | ".join(f"{precision}, mm" for precision in precisions) + " | last less first, mm |")
    print("| --- |" + " --- |" * (len(precisions) + 1))
    for seed in seeds:
        errors = [error_mm(precision, seed, options) for precision in precisions]
        cells = [*(f"{error:.2f}" for error in errors), f"{errors[-1] - errors[0]:+.2f}"]
        print(f"| {seed} | " + " | ".join(cells) + " |", flush=True)
    return 0


def error_mm(precision: str, seed: int, options: argparse.Namespace) -> float:
    """The wrist-aligned error after a run, from its folder where it is there. Raises CalledProcessError where it failed."""
    folder = (options.out / f"{precision}-{seed}").resolve()
    checkpoint, data = folder / "checkpoint", f"data.root={options.data.resolve()}"
    metrics = checkpoint / "metrics.json"
    if not metrics.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        train = ["amt.train", "experiment=overfit", data, f"train.output={folder / 'train'}"]
        train += [f"train.checkpoint={checkpoint}", f"train.steps={options.steps}", f"train.seed={seed}"]
        train += [f"train.precision={precision}", *options.words]
        evaluate = ["amt.evaluate", str(checkpoint), data, "evaluate.subset=train", f"data.limit={PICTURES}"]
        for command in (train, [*evaluate, "evaluate.report=off"]):
            with (folder / "log.txt").open("a") as log:
                subprocess.run(
                    [sys.executable, "-m", *command],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    cwd=ROOT,
                    check=True,
                )
    return json.loads(metrics.read_text())["wrist_aligned_mpjpe_mm"]


if __name__ == "__main__":
    sys.exit(main())
