"""The demo's metrics as a table for the README: what `make demo` wrote into metrics.json, copied to docs/demo."""

from __future__ import annotations

import json
from pathlib import Path

METRICS = Path(__file__).resolve().parent.parent / "docs" / "demo" / "metrics.json"
ROWS = (
    ("hand, wrist-aligned MPJPE (mm)", "wrist_aligned_mpjpe_mm", 1),
    ("… of the coarse decoder, before refinement", "coarse_wrist_aligned_mpjpe_mm", 1),
    ("hand, Procrustes-aligned MPJPE (mm)", "procrustes_mpjpe_mm", 1),
    ("hand, absolute MPJPE (mm)", "absolute_mpjpe_mm", 1),
    ("object, ADD-S (mm)", "adds_mm", 1),
    ("contact F1, hand vertices (beside: the best mask that is the same for every image)", "contact_f1", 3),
    ("spread of predictions over spread of labels", "spread_ratio", 2),
)


def table(path: Path = METRICS) -> str:
    """The Markdown table of one metrics.json. Raises ValueError where the file is missing or lacks a figure."""
    try:
        metrics = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name}: cannot be read ({error}); run `make demo` and copy its metrics.json") from error
    baseline = metrics["baseline"]
    lines = [
        f"| {metrics['frames']} frames of people that training never saw ({metrics['split']} {metrics['subset']}, protocol "
        f"{metrics['protocol']}, {metrics['box']} box) | AMT `tiny` | mean pose |",
        "| --- | --- | --- |",
    ]
    for text, key, digits in ROWS:
        if key not in metrics:
            raise ValueError(f"{path.name}: lacks {key}; run `make demo` and copy its metrics.json")
        beside = f"{baseline[key]:.{digits}f}" if key in baseline else ""
        lines.append(f"| {text} | {metrics[key]:.{digits}f} | {beside} |")
    always = baseline["contact_f1_always_yes"], baseline["contact_f1_always_no"]
    lines.append(f"| … answering always yes, always no | | {always[0]:.3f}, {always[1]:.3f} |")
    return "\n".join(lines)
