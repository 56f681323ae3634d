"""How far a training run gets in ten minutes from nothing: frames are rendered by every core, a model learns from them on the
device, and `python -m amt.evaluate` scores it on people whom it never saw.

    python -m benchmarks.learn [--device cuda] [--seconds 520] [--scenes N] [key=value ...]

The words go to `python -m amt.train` (experiment=amt_tiny with larger batches is what they change). The record in the results
file holds the metrics, the error against images seen on the validation people, and what the time went into; learn.png in the
folder shows the curve.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

from amt.errors import UsageError
from amt.startup import run_program
from amt.train.records import STEPS, VALIDATIONS, read_log
from benchmarks.harness import default_device
from benchmarks.results import Results, default_path, load_mark

RENDERING = 1 / 3  # of the time, at most
EVALUATION = 60  # s that are kept for it
START = 30  # s that training takes beside its steps: imports, the crop cache, the checkpoint
LEAST_TRAINING = 30  # s
MOST_SCENES = 16_000
BATCH = 128
METRICS = (
    "wrist_aligned_mpjpe_mm",
    "procrustes_mpjpe_mm",
    "absolute_mpjpe_mm",
    "adds_mm",
    "rotation_median_deg",
    "rotation_below_30",
    "contact_f1",
)
CURVE = ("wrist_aligned_mm", "procrustes_mm", "adds_mm")  # of validation.jsonl


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learn", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default=default_device().type, choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=520, help="of everything together (default %(default)g)")
    parser.add_argument("--scenes", type=int, help="to learn from (default: as many as a third of the time renders)")
    parser.add_argument(
        "--folder", type=Path, default=Path("build", "learn"), help="of the set and the runs (default %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="results file (default: benchmarks/results/<machine>.json)")
    parser.add_argument(
        "--quick", action="store_true", help="a few scenes and steps: whether it runs, not what it learns"
    )
    options, words = parser.parse_known_args(arguments)
    for word in words:
        if "=" not in word:
            parser.error(f"unrecognized arguments: {word}")
    return run_program("benchmarks.learn", lambda: learn(options, words))


def learn(options: argparse.Namespace, words: list[str]) -> int:
    """Renders, trains, evaluates, and writes the record. Returns the exit status."""
    end = time.monotonic() + options.seconds
    device = torch.device(options.device)
    cores = len(os.sched_getaffinity(0))
    scenes, held_out = options.scenes, ("1", "1") if options.quick else ("8", "2")
    if options.quick:
        scenes = scenes or 8
    elif scenes is None:
        scenes = rendered_before(options.folder) or affordable(options.seconds * RENDERING, cores)
    data = options.folder / f"scenes-{scenes}"
    begin = time.monotonic()
    program(
        "amt.data.synthetic", data, "--independent", scenes, "--held-out", held_out[0], "--frames", held_out[1],
        "--workers", cores,
    )  # fmt: skip
    rendered_s = time.monotonic() - begin
    print(f"{scenes} scenes by {cores} cores in {rendered_s:.0f} s", flush=True)

    run = options.folder / datetime.now().strftime("run-%Y%m%d-%H%M%S")
    begin = time.monotonic()
    program("amt.train", *settings(options, data, run, end - begin - EVALUATION - START), *words)
    trained_s = time.monotonic() - begin
    begin = time.monotonic()
    program(
        "amt.evaluate", run / "checkpoint", f"data.root={data}", "evaluate.report=off", f"evaluate.device={device.type}"
    )
    evaluated_s = time.monotonic() - begin

    record = record_of(run, device) | {"scenes": scenes, "render_cores": cores, "quick": options.quick}
    record["seconds"] = {"render": round(rendered_s), "train": round(trained_s), "evaluate": round(evaluated_s)}
    path = options.output or default_path(device)
    Results(path, device).add(record)
    draw(run / "learn.png", record)
    print(
        f"{record['images']:,} images at {record['samples_s']:.0f} a second: wrist-aligned "
        f"{record['metrics']['wrist_aligned_mpjpe_mm']:.1f} mm, {record['of_mean_pose']:.3f} of the mean pose's\n"
        f"curve: {run / 'learn.png'}; record: {path}"
    )
    return 0


def rendered_before(folder: Path) -> int | None:
    """The scenes of the largest set that an earlier command rendered, or began to."""
    return max((int(path.name.removeprefix("scenes-")) for path in folder.glob("scenes-[0-9]*")), default=None)


def affordable(seconds: float, cores: int) -> int:
    """How many scenes this machine renders in that time, by two trials whose difference leaves the start of processes out."""
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        for each in (1, 5):
            begin = time.monotonic()
            program(
                "amt.data.synthetic",
                Path(folder, str(each)),
                "--independent",
                each * cores,
                "--workers",
                cores,
                "--quiet",
            )
            spent.append(time.monotonic() - begin)
    seconds -= sum(spent) + spent[0]
    rate = 4 * cores / max(spent[1] - spent[0], 0.1)
    return max(cores, min(MOST_SCENES, int(seconds * rate)))


def settings(options: argparse.Namespace, data: Path, run: Path, seconds: float) -> Iterator[str]:
    """The words of the training run, which may take that long. Raises UsageError where that is too little."""
    yield from ("experiment=amt_tiny", f"data.root={data}", f"data.cache={options.folder / 'cache'}")
    yield from (f"train.output={run}", f"train.device={options.device}", "train.threads=0", "train.logger=none")
    if options.quick:
        yield from ("train.steps=2", "train.batch_size=4", "train.validate_every=1", "train.validate_images=4")
        return
    if seconds < LEAST_TRAINING:
        raise UsageError(
            f"--seconds {options.seconds:g}: {seconds:.0f} s would be left for training, at least {LEAST_TRAINING} are needed; "
            "give more, or fewer --scenes"
        )
    yield from (f"train.minutes={seconds / 60:.3f}", f"train.batch_size={BATCH}", "train.validate_every=250")


def program(name: str, *arguments: object) -> None:
    """Runs a program of this package as a user does. Raises RuntimeError where it fails."""
    done = subprocess.run([sys.executable, "-m", name, *map(str, arguments)])
    if done.returncode:
        raise RuntimeError(
            f"benchmarks.learn: {name} ended with exit status {done.returncode}; its message stands above"
        )


def record_of(run: Path, device: torch.device) -> dict:
    """What a run's folder says, as a record of the results file."""
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    steps, validations = read_log(run / STEPS), read_log(run / VALIDATIONS)
    metrics = json.loads((run / "checkpoint" / "metrics.json").read_text())
    batch, model = config["train"]["batch_size"], config["model"]
    images = len(steps) * batch
    error, mean_pose = (m["wrist_aligned_mpjpe_mm"] for m in (metrics, metrics["baseline"]))
    return {
        "op": "training run",
        "pass": "rendered, trained, evaluated",
        "shape": {"size": model["size"], "px": model["crop_size"], "B": batch},
        "dtype": "bfloat16" if config["train"]["precision"] != "float32" else "float32",
        "device": device.type,
        "images": images,
        "samples_s": round(batch * len(steps) / sum(row["seconds"] for row in steps), 1),
        "curve": [[row["step"] * batch, *(round(row[name], 2) for name in CURVE)] for row in validations],
        "metrics": {name: round(metrics[name], 4) for name in METRICS},
        "of_mean_pose": round(error / mean_pose, 4),
        "frames": metrics["frames"],
        **load_mark(),
    }


def draw(path: Path, record: dict) -> None:
    """The errors against images seen, both on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    images, *errors = zip(*record["curve"])
    for name, values in zip(("wrist-aligned", "Procrustes-aligned", "object, ADD-S"), errors):
        axes.plot(images, values, marker="o", markersize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="images seen", ylabel="error on validation people, mm")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
