"""Figures as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amt.files import write_text

_ROWS = (
    ("wrist-aligned MPJPE, mm", "wrist_aligned_mpjpe_mm"),
    ("  of the coarse decoder", "coarse_wrist_aligned_mpjpe_mm"),
    ("  before refinement", "decoded_wrist_aligned_mpjpe_mm"),
    ("Procrustes MPJPE, mm", "procrustes_mpjpe_mm"),
    ("absolute MPJPE, mm", "absolute_mpjpe_mm"),
    ("object ADD-S, mm", "adds_mm"),
    ("object ADD-S (adi), mm", "adi_mm"),
    ("contact F1, hand vertices", "contact_f1"),
    ("  always yes", "contact_f1_always_yes"),
    ("  always no", "contact_f1_always_no"),
    ("contact F1, object points", "object_contact_f1"),
    ("  always yes", "object_contact_f1_always_yes"),
    ("spread of predictions / labels", "spread_ratio"),
)


def table(figures: dict[str, Any]) -> str:
    """Model beside baseline, a line a figure."""
    base = figures["baseline"]
    title = f"{figures['split']} {figures['subset']}, protocol {figures['protocol']}, {figures['box']} box"
    lines = [f"{title}, {figures['frames']} frames", f"{'':34s}{'model':>10s}{'mean pose':>12s}"]
    for label, key in _ROWS:
        if key in figures or key in base:
            lines.append(f"{label:34s}{_number(figures.get(key)):>10s}{_number(base.get(key)):>12s}")
    return "\n".join(lines)


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    write_text(path, json.dumps(figures, indent=2) + "\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 2 else f"{value:.1f}"
