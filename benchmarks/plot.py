"""The one picture: time against batch, and the share of the machine's ceiling that is reached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from benchmarks.tables import measured

PICTURE = "plot.png"
LINES = {"eager_ms": ("eager", "tab:gray", "--"), "compiled_ms": ("torch.compile", "tab:orange", "--"),
         "graph_ms": ("CUDA graph", "tab:green", "--"), "ours_ms": ("this package", "tab:blue", "-")}  # fmt: skip


def digest(files: list[dict]) -> str:
    """Of everything that the picture shows; it is written into the picture, so that a stale one is noticed."""
    return hashlib.sha256(json.dumps(_panels(files), sort_keys=True).encode()).hexdigest()


def is_current(path: Path, files: list[dict]) -> bool:
    return path.exists() and digest(files).encode() in path.read_bytes()


def _panels(files: list[dict]) -> list[dict]:
    """One panel for each op, on the machine where most of its batch sizes were measured (a GPU first), forward."""
    panels = []
    for op in ("refine", "frame_pointnet", "hand_frames", "attention", "model"):
        series: dict[tuple, list[dict]] = {}
        for file, record in measured(files):
            if record["op"] == op and record["pass"] == "forward" and "failed" not in record and "B" in record["shape"]:
                rest = json.dumps({k: v for k, v in record["shape"].items() if k != "B"}, sort_keys=True)
                key = (file["environment"]["machine"], record["device"], rest, record["dtype"])
                series.setdefault(key, []).append(record)
        if not series:
            continue
        key = max(series, key=lambda k: (k[1] == "cuda", len(series[k]), k))
        records = sorted(series[key], key=lambda r: r["shape"]["B"])
        panel = {"op": op, "machine": key[0], "shape": key[2], "dtype": key[3], "batch": [], "share": []}
        for record in records:
            panel["batch"].append(record["shape"]["B"])
            panel["share"].append(max(record.get("matrix_share") or 0, record.get("copy_share") or 0))
            for column in LINES:
                panel.setdefault(column, []).append(record.get(column))
        panels.append(panel)
    return panels


def draw(path: Path, files: list[dict]) -> None:
    """Writes the picture; an empty one with a sentence where nothing was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = _panels(files)
    figure, axes = plt.subplots(2, max(1, len(panels)), figsize=(3.6 * max(1, len(panels)), 5.6), squeeze=False)
    if not panels:
        axes[0, 0].text(0.5, 0.5, "not yet measured", ha="center")
    for (above, below), panel in zip(axes.T, panels):
        for column, (name, color, style) in LINES.items():
            points = [(b, t) for b, t in zip(panel["batch"], panel[column]) if t is not None]
            if points:
                above.plot(*zip(*points), style, color=color, marker="o", markersize=3, label=name)
        sizes = " ".join(f"{k} {v}" for k, v in json.loads(panel["shape"]).items())
        above.set(xscale="log", yscale="log", ylabel="ms a call")
        above.set_title(f"{panel['op']}\n{sizes} {panel['dtype']}\n{panel['machine']}", fontsize=7)
        above.legend(fontsize=7)
        below.plot(panel["batch"], [100 * s for s in panel["share"]], "-o", color="tab:blue", markersize=3)
        below.set(xscale="log", xlabel="batch", ylabel="% of the machine's ceiling", ylim=(0, 100))
        for axis in (above, below):
            axis.set_xticks(panel["batch"], [str(b) for b in panel["batch"]])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Source": digest(files), "Software": None})
    plt.close(figure)
