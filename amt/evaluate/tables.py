"""Figures as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amt.files import write_text

ROWS = (
    ("wrist-aligned MPJPE, mm", "wrist_aligned_mpjpe_mm"),
    ("  of the coarse decoder", "coarse_wrist_aligned_mpjpe_mm"),
    ("  before refinement", "decoded_wrist_aligned_mpjpe_mm"),
    ("Procrustes MPJPE, mm", "procrustes_mpjpe_mm"),
    ("absolute MPJPE, mm", "absolute_mpjpe_mm"),
    ("AUC 0-50 mm, wrist-aligned", "wrist_aligned_auc"),
    ("AUC 0-50 mm, Procrustes", "procrustes_auc"),
    ("hands found", "recall"),
    ("wrist-aligned MPJPE-p, mm", "wrist_aligned_mpjpe_p_mm"),
    ("wrist-aligned MPVPE, mm", "wrist_aligned_mpvpe_mm"),
    ("Procrustes MPVPE, mm", "procrustes_mpvpe_mm"),
    ("Procrustes F@5", "procrustes_f5"),
    ("Procrustes F@15", "procrustes_f15"),
    ("object ADD, mm", "add_mm"),
    ("object ADD-S, mm", "adds_mm"),
    ("object ADD-S (adi), mm", "adi_mm"),
    ("object centre (OCE), mm", "oce_mm"),
    ("object corners (MCE), mm", "mce_mm"),
    ("object rotation, degrees", "rotation_deg"),
    ("  median", "rotation_median_deg"),
    ("  share below 30 degrees", "rotation_below_30"),
    ("object MSSD, mm", "mssd_mm"),
    ("object MSPD, px", "mspd_px"),
    ("contact F1, hand vertices", "contact_f1"),
    ("  precision", "contact_precision"),
    ("  recall", "contact_recall"),
    ("  always yes", "contact_f1_always_yes"),
    ("  always no", "contact_f1_always_no"),
    ("contact F1, object points", "object_contact_f1"),
    ("  always yes", "object_contact_f1_always_yes"),
    ("touching or not, share right", "touching_accuracy"),
    ("spread of predictions / labels", "spread_ratio"),
    ("acceleration error, mm / frame²", "acceleration_error_mm"),
    ("lag, frames", "lag_frames"),
)
PHYSICS = (
    ("true depth, mm", "true_depth_mm"),
    ("  of the hand in the object", "hand_depth_mm"),
    ("  of the object in the hand", "object_depth_mm"),
    ("intersection, cm³", "intersection_cm3"),
    ("hand vertices in contact", "contact_ratio"),
    ("grasps that touch", "touching_rate"),
    ("grasps that hold", "hold_rate"),
    ("  over directions of gravity", "hold_rate_by_direction"),
    ("left out: no hand, or no finite one", "left_out"),
    ("grasps", "grasps"),
)
GROUPS = ("object", "camera", "subject")
SAME = ("recall", "wrist_aligned_mpjpe_p_mm")  # said where a hand was missed


def table(figures: dict[str, Any]) -> str:
    """Model beside baseline, a line a figure."""
    base = figures["baseline"]
    title = f"{figures['split']} {figures['subset']}, protocol {figures['protocol']}, {figures['box']} box"
    lines = [f"{title}, {figures['frames']} frames", f"{'':34s}{'model':>10s}{'mean pose':>12s}"]
    for label, key in shown(figures):
        lines.append(f"{label:34s}{number(figures.get(key)):>10s}{number(base.get(key)):>12s}")
    return "\n".join(lines)


def shown(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and key of every row of the table: what the model or the mean pose has a figure for."""
    known = {*figures, *figures["baseline"]} - ({*SAME} if figures.get("recall") == 1 else set())
    return [(label, key) for label, key in ROWS if key in known]


def by_joint(figures: Mapping[str, Any]) -> str:
    """A line a joint."""
    columns = (
        "wrist_aligned_mpjpe_mm",
        "visible_wrist_aligned_mpjpe_mm",
        "hidden_wrist_aligned_mpjpe_mm",
        "absolute_mpjpe_mm",
    )
    heads = ("wrist-aligned", "where visible", "where hidden", "absolute")
    return _rows("joint, mm", figures.get("joints", {}), columns, heads)


def by_group(figures: Mapping[str, Any], name: str) -> str:
    """A line an object, a camera or a person."""
    columns = ("frames", "wrist_aligned_mpjpe_mm", "procrustes_mpjpe_mm", "absolute_mpjpe_mm", "adds_mm", "contact_f1")
    heads = ("frames", "wrist-al. mm", "Procrustes mm", "absolute mm", "ADD-S mm", "contact F1")
    return _rows(name, figures.get("by", {}).get(name, {}), columns, heads)


def physics_rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, the model's figure and the labels' own, where ``evaluate.physics`` asked for them."""
    ours = figures.get("physics", {})
    known = {key for key in ours if key != "left_out" or ours[key]}
    return [(label, number(ours[key]), number(ours["labels"].get(key))) for label, key in PHYSICS if key in known]


def physics(figures: Mapping[str, Any]) -> str:
    """The model beside the labels, a line a figure."""
    rows = physics_rows(figures)
    head = [f"{'physics':34s}{'model':>10s}{'labels':>12s}"] if rows else []
    return "\n".join(head + [f"{label:34s}{ours:>10s}{labels:>12s}" for label, ours, labels in rows])


def all_tables(figures: dict[str, Any]) -> str:
    """Every table, a blank line between them."""
    found = [table(figures), physics(figures), by_joint(figures), *(by_group(figures, name) for name in GROUPS)]
    return "\n\n".join(text for text in found if text)


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    write_text(path, json.dumps(figures, indent=2) + "\n")


def number(value: float | None) -> str:
    """Three decimals below 2, else one."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if value < 2 else f"{value:.1f}"


def _rows(head: str, rows: Mapping[str, Mapping[str, Any]], columns: tuple[str, ...], heads: tuple[str, ...]) -> str:
    """Rows by name; columns that no row has are left out."""
    shown = [(key, text) for key, text in zip(columns, heads) if any(key in row for row in rows.values())]
    if not rows or not shown:
        return ""
    width = max(len(head), *map(len, rows)) + 2
    lines = [f"{head:{width}s}" + "".join(f"{text:>15s}" for _, text in shown)]
    lines += [
        f"{name:{width}s}" + "".join(f"{number(row.get(key)):>15s}" for key, _ in shown) for name, row in rows.items()
    ]
    return "\n".join(lines)
