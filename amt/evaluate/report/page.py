"""The page: sections of figures, charts, pictures and the viewer, as one text."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from amt import metrics
from amt.draw.viewer import View
from amt.evaluate.collect import Beliefs, Samples
from amt.evaluate.report import charts
from amt.evaluate.report.looks import FACTORS, Looks
from amt.evaluate.tables import GROUPS, number, physics_rows, shown
from amt.hand.skeleton import JOINT_NAMES
from amt.metrics.calibration import LEVELS

# Nothing is fetched, and nothing can be.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
CARDS = (
    ("wrist_aligned_mpjpe_mm", "mm wrist-aligned MPJPE"),
    ("procrustes_mpjpe_mm", "mm Procrustes MPJPE"),
    ("absolute_mpjpe_mm", "mm absolute MPJPE"),
    ("adds_mm", "mm object ADD-S"),
    ("contact_f1", "contact F1"),
    ("recall", "of the hands found"),
)
GROUP_COLUMNS = (
    "frames",
    "wrist_aligned_mpjpe_mm",
    "procrustes_mpjpe_mm",
    "absolute_mpjpe_mm",
    "adds_mm",
    "rotation_deg",
    "contact_f1",
)
GROUP_HEADS = (
    "frames",
    "wrist-aligned, mm",
    "Procrustes, mm",
    "absolute, mm",
    "ADD-S, mm",
    "rotation, °",
    "contact F1",
)
JOINT_COLUMNS = (
    ("wrist_aligned_mpjpe_mm", "wrist-aligned, mm"),
    ("visible_wrist_aligned_mpjpe_mm", "where visible, mm"),
    ("visible", "frames"),
    ("hidden_wrist_aligned_mpjpe_mm", "where hidden, mm"),
    ("hidden", "frames"),
    ("procrustes_mpjpe_mm", "Procrustes, mm"),
    ("absolute_mpjpe_mm", "absolute, mm"),
)
BINS = 5


def page(figures: Mapping[str, Any], samples: Samples, beliefs: Beliefs, looks: Looks) -> str:
    """The whole of report.html."""
    title = f"{figures['split']} {figures['subset']}, protocol {figures['protocol']}, {figures['box']} box"
    chosen = samples.hand_valid & ~samples.missed
    view = View(looks.scenes) if looks.scenes else None
    sections = [_head(figures), _table(figures)]
    if chosen.any():
        s = samples[chosen]
        sections += [_accuracy(figures, s, looks), _conditions(s, looks), _refinement(figures)]
    sections += [
        _physics(figures),
        _beliefs(beliefs),
        _joints(figures),
        *(_group(figures, name) for name in GROUPS),
        _pictures(looks),
        _viewer(view),
    ]
    counted = f"{figures['frames']} frames, {figures['hands']} labelled hands"
    subtitle = f"{counted}, {figures['data']} pictures. {figures['checkpoint']}"
    if "weights_sha256" in figures:
        subtitle += f", weights {figures['weights_sha256'][:12]} (SHA-256)"
    assets = files("amt.evaluate.report").joinpath("assets")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>AMT: {escape(title)}</title>
<style>{assets.joinpath("page.css").read_text()}{View.style()}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="sub">{escape(subtitle)}</p>
{"".join(part for part in sections if part)}
</main>
{view.script() if view else ""}
</body>
</html>
"""


def _section(title: str, *parts: str, note: str = "") -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}{note}</section>\n"


def _figure(title: str, chart: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{chart}</figure>"


def _head(figures: Mapping[str, Any]) -> str:
    cards = (
        f'<div class="card"><b>{number(figures[key])}</b><span>{escape(text)}</span></div>'
        for key, text in CARDS
        if key in figures
    )
    return f'<section><div class="cards">{"".join(cards)}</div></section>\n'


def _table(figures: Mapping[str, Any]) -> str:
    base = figures["baseline"]
    rows = [
        (label.replace("  ", "– "), number(figures.get(key)), number(base.get(key))) for label, key in shown(figures)
    ]
    return _section("All figures", _rows(("", "model", "mean pose"), rows))


def _physics(figures: Mapping[str, Any]) -> str:
    rows = physics_rows(figures)
    return _section("Physics of the grasps", _rows(("", "model", "labels"), rows)) if rows else ""


def _rows(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _accuracy(figures: Mapping[str, Any], s: Samples, looks: Looks) -> str:
    limits = torch.linspace(0, 50, 51, dtype=torch.float64)
    named = (
        ("Procrustes", s.model.procrustes_mm), ("wrist-aligned", s.model.aligned_mm), ("absolute", s.model.absolute_mm),
        ("mean pose, wrist-aligned", s.baseline.aligned_mm),
    )  # fmt: skip
    curves = [(name, limits.tolist(), metrics.pck(error, limits).mean(dim=1).tolist()) for name, error in named]
    joints = [figures["joints"][name] for name in JOINT_NAMES]
    hand = [row["wrist_aligned_mpjpe_mm"] for row in joints]
    seen, hidden = (
        [row.get(f"{name}_wrist_aligned_mpjpe_mm", 0.0) for row in joints] for name in ("visible", "hidden")
    )
    parts = [
        _figure(
            "Share of joints within a threshold (PCK)", charts.lines(curves, "threshold, mm", "share of joints", (0, 1))
        ),
        _figure("Wrist-aligned error of each joint, mm", charts.hand(looks.rest, hand, "mm")),
    ]
    if any(seen) and any(hidden):
        counts = [[row.get(name, 0) for row in joints] for name in ("visible", "hidden")]
        means = [
            sum(v * n for v, n in zip(values, count)) / max(sum(count), 1)
            for values, count in zip((seen, hidden), counts)
        ]
        chart = charts.bars(("visible", "hidden"), means, "wrist-aligned, mm", [sum(count) for count in counts])
        parts.append(_figure("Joints that the camera sees, and others", chart))
    return _section("Accuracy", f'<div class="charts">{"".join(parts)}</div>')


def _conditions(s: Samples, looks: Looks) -> str:
    error = s.model.aligned_mm.mean(dim=1)
    parts = []
    known = s.visible_known
    if known.any():
        parts.append(
            _binned("Joints that the camera sees, of 21", s.visible[known].sum(dim=1).double(), error[known], "{:.0f}")
        )
    parts.append(_binned("Distance of the wrist, m", s.distance_m, error, "{:.2f}"))
    parts.append(_binned("Horizontal field of view, degrees", s.view_deg, error, "{:.1f}"))
    parts.append(
        _binned("Distance of the wrist, m: absolute error", s.distance_m, s.model.absolute_mm.mean(dim=1), "{:.2f}")
    )
    if looks.wrong_k:
        x = [100 * (factor - 1) for factor in FACTORS]
        curves = [(name, x, values) for name, values in looks.wrong_k.items()]
        parts.append(_figure("K wrong: both focal lengths", charts.lines(curves, "wrong by, %", "mean error, mm")))
    note = "Wrist-aligned errors where nothing else is said. A bar is a fifth of the frames, or what shares one value."
    return _section("Error against the picture", f'<div class="charts">{"".join(parts)}</div>', note=note)


def _binned(title: str, values: Tensor, error: Tensor, form: str) -> str:
    """Mean errors of the fifths of the values, or of what there is of them."""
    edges = torch.quantile(values, torch.linspace(0, 1, BINS + 1, dtype=values.dtype)).unique()
    if len(edges) < 2:
        return _figure(title, charts.bars([form.format(float(edges[0]))], [float(error.mean())], "mm", [len(error)]))
    place = torch.bucketize(values, edges[1:-1], right=True)
    names, means, counts = [], [], []
    for k in range(len(edges) - 1):
        mine = place == k
        if mine.any():
            low, high = form.format(float(values[mine].min())), form.format(float(values[mine].max()))
            names.append(low if low == high else f"{low}–{high}")
            means.append(float(error[mine].mean()))
            counts.append(int(mine.sum()))
    return _figure(title, charts.bars(names, means, "mm", counts))


def _refinement(figures: Mapping[str, Any]) -> str:
    steps = figures["refined_wrist_aligned_mpjpe_mm"]
    names = ["coarse", "decoded", *(f"step {k}" for k in range(1, len(steps) + 1))]
    values = [figures["coarse_wrist_aligned_mpjpe_mm"], figures["decoded_wrist_aligned_mpjpe_mm"], *steps]
    gains = [f"{name} {b - a:+.2f} mm" for name, a, b in zip(names[1:], values, values[1:])]
    chart = charts.bars(names, values, "wrist-aligned MPJPE, mm")
    return _section(
        "What every stage gains", f'<div class="charts">{_figure("Stages", chart)}</div>', note="; ".join(gains)
    )


def _beliefs(beliefs: Beliefs) -> str:
    parts = []
    for title, found in (("Contact of vertices", beliefs.contact), ("Visibility of joints", beliefs.visible)):
        if found is not None and found.count.sum():
            full = found.count > 0
            said, true = (
                (found.said[full] / found.count[full]).tolist(),
                (found.true[full] / found.count[full]).tolist(),
            )
            chart = charts.lines([(title, said, true)], "said, probability", "came true, share", (0, 1), diagonal=True)
            parts.append(_figure(f"{title}: ECE {found.ece:.3f}", chart))
    if beliefs.sums.count("coverage"):
        shares = torch.tensor(beliefs.sums.mean("coverage")).mean(dim=1).tolist()
        curve = [("Scale of joints", LEVELS.tolist(), shares)]
        chart = charts.lines(curve, "promised share", "share of errors inside", (0, 1), diagonal=True)
        parts.append(_figure("Scale of joints' errors", chart))
    note = "On the dashed line, what the model says of its own certainty is true."
    return _section("Calibration", f'<div class="charts">{"".join(parts)}</div>', note=note) if parts else ""


def _joints(figures: Mapping[str, Any]) -> str:
    rows = figures.get("joints", {})
    shown = [(key, head) for key, head in JOINT_COLUMNS if any(key in row for row in rows.values())]
    cells = [(name, *(number(row.get(key)) for key, _ in shown)) for name, row in rows.items()]
    return _section("By joint", _rows(("joint", *(head for _, head in shown)), cells)) if rows else ""


def _group(figures: Mapping[str, Any], name: str) -> str:
    rows = figures.get("by", {}).get(name, {})
    shown = [(key, head) for key, head in zip(GROUP_COLUMNS, GROUP_HEADS) if any(key in row for row in rows.values())]
    cells = [(key, *(number(row.get(column)) for column, _ in shown)) for key, row in rows.items()]
    return _section(f"By {name}", _rows((name, *(head for _, head in shown)), cells)) if rows else ""


def _pictures(looks: Looks) -> str:
    parts = [
        f'<h3>{escape(title)}</h3><img alt="{escape(title)}" src="data:image/jpeg;base64,{data}">'
        for title, data in looks.pictures
        if data
    ]
    return _section("Best, median and worst", f'<div class="pictures">{"".join(parts)}</div>') if parts else ""


def _viewer(view: View | None) -> str:
    return "" if view is None else _section("In three dimensions", view.controls())
