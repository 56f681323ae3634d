"""`python -m tools.ablation DATA` trains size tiny with one part changed after another, and says what each is worth.

Every variant is trained on DATA (a set in DexYCB's layout, split s1) with the demo's settings over a fixed number of steps,
once a seed, and evaluated on people it never saw. Runs that are finished are kept in OUT and not repeated; runs are made by
`python -m amt.train` and `python -m amt.evaluate`, two at a time with one thread each. The table, and one JSON with every
run's figures, commit and settings, go to benchmarks/results/ablation; nothing is written there where every run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.results import FOLDER, ROOT, commit, now

VARIANTS: dict[str, list[str]] = {
    "as it ships": [],
    "without pose search": ["model.pose_search=false"],
    "without outline": ["model.outline=false"],
    "with box corners": ["model.corners=true"],
    "4 residual convolutions fewer": ["model.backbone.residuals=[0,0,0,0]"],
    "with hand frames": ["model.hand_frames=true"],
    "with contact tokens": ["model.contact_tokens=true"],
    "1 refinement step": ["model.refine_steps=1"],
    "3 refinement steps": ["model.refine_steps=3"],
    "maps of 16×16": ["model.map_size=16"],
    "without sigma": ["model.sigma=false"],
    "without sigma, with diversity loss": ["model.sigma=false", "train.loss.diversity=0.5"],
    "with diversity loss": ["train.loss.diversity=0.5"],
}
COLUMNS = (
    ("wrist-aligned, mm", "wrist_aligned_mpjpe_mm", 1),
    ("Procrustes, mm", "procrustes_mpjpe_mm", 1),
    ("absolute, mm", "absolute_mpjpe_mm", 1),
    ("ADD-S, mm", "adds_mm", 1),
    ("contact F1", "contact_f1", 3),
    ("spread", "spread_ratio", 2),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.ablation", description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, help="folder that python -m amt.data.synthetic wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=FOLDER / "ablation", help="folder of the table and the JSON")
    parser.add_argument("--steps", type=int, default=400, help="of 16 images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, each with one thread")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="some variants")
    parser.add_argument("override", nargs="*", help="key=value for every run, as python -m amt.train takes them")
    options = parser.parse_intermixed_args(arguments)
    for name in ("steps", "seeds", "jobs"):
        if getattr(options, name) < 1:
            print(f"tools.ablation: --{name} must be at least 1; got {getattr(options, name)}", file=sys.stderr)
            return 2
    names = options.only or list(VARIANTS)
    runs = [(name, seed) for seed in range(options.seeds) for name in names]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda run: trained(*run, options), runs))
    failed = [run for run, metrics in zip(runs, found) if metrics is None]
    for name, seed in failed:
        print(
            f"ablation: {name!r}, seed {seed}, failed: see {_folder(options.out, name, seed)}/log.txt", file=sys.stderr
        )
    records = [
        {"variant": name, "seed": seed, "overrides": VARIANTS[name], **figures(metrics)}
        for (name, seed), metrics in zip(runs, found)
        if metrics is not None
    ]
    if not records:
        print(f"tools.ablation: no run succeeded; {options.results} stays as it is", file=sys.stderr)
        return 1
    options.results.mkdir(parents=True, exist_ok=True)
    record = {"commit": commit(), "date": now(), "steps": options.steps, "images": 16 * options.steps}
    # where the data lie changes no figure, and is nobody else's business
    record |= {"overrides": [o for o in options.override if not o.startswith("data.")], "runs": records}
    (options.results / "ablation.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(records)
    (options.results / "ablation.md").write_text(text + "\n")
    print(text)
    return 1 if failed else 0


def trained(name: str, seed: int, options: argparse.Namespace) -> dict | None:
    """The metrics of one run, from its folder where it is there; None where it failed."""
    folder = _folder(options.out, name, seed).resolve()
    metrics = folder / "checkpoint" / "metrics.json"
    if not metrics.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint, data = folder / "checkpoint", f"data.root={options.data.resolve()}"
        train = ["amt.train", "experiment=ablation", data, f"train.output={folder / 'train'}"]
        train += [
            f"train.checkpoint={checkpoint}",
            f"train.steps={options.steps}",
            f"train.seed={seed}",
        ]
        train += [*VARIANTS[name], *options.override]
        with (folder / "log.txt").open("w") as log:
            for command in (train, ["amt.evaluate", str(checkpoint), data, "evaluate.report=off"]):
                done = subprocess.run(
                    [sys.executable, "-m", *command],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    cwd=ROOT,
                )
                if done.returncode:
                    return None
        print(f"{name}, seed {seed}: {json.loads(metrics.read_text())['wrist_aligned_mpjpe_mm']:.1f} mm", flush=True)
    return json.loads(metrics.read_text())


def figures(metrics: dict) -> dict:
    """What is kept of a run's metrics.json; "stopped": wrist-aligned error in mm before the refinement and after each step."""
    stopped = [metrics["decoded_wrist_aligned_mpjpe_mm"], *metrics["refined_wrist_aligned_mpjpe_mm"]]
    return {key: metrics[key] for _, key, _ in COLUMNS} | {"stopped": stopped}


def table(records: list[dict]) -> str:
    """Markdown: a row a variant, mean ± standard deviation over its seeds; then what each refinement step did as it ships."""
    lines = ["| | " + " | ".join(text for text, _, _ in COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for name in dict.fromkeys(record["variant"] for record in records):
        runs = [record for record in records if record["variant"] == name]
        cells = [_cell([run[key] for run in runs], digits) for _, key, digits in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    shipped = [record["stopped"] for record in records if record["variant"] == next(iter(VARIANTS))]
    for steps, values in enumerate(zip(*shipped)):
        lines.append(f"| as it ships, stopped after {steps} steps | {_cell(values, 1)} |" + " |" * (len(COLUMNS) - 1))
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"


if __name__ == "__main__":
    sys.exit(main())
