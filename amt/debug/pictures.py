"""Pictures of a report, as PNG: gradient flow, activations, spread by joint."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from amt.debug.activations import LayerActivation
from amt.debug.gradients import LayerGradient
from amt.hand.skeleton import JOINT_NAMES

SOUND, FAULT = "#3b6ea5", "#c0392b"
DPI = 90


def gradient_flow(gradients: Sequence[LayerGradient], limit: float) -> bytes:
    """One bar a layer: the norm of the gradient over the weights', logarithmic; red above ``limit`` and where not finite."""
    shown = [g for g in gradients if g.grad_norm]
    ratios = np.array([g.ratio if np.isfinite(g.ratio) else np.nan for g in shown])
    figure, axis = _figure(len(shown))
    known = ratios[ratios > 0]
    floor = 0.5 * known.min() if len(known) else 1e-6
    top = max(known.max(), limit) * 3 if len(known) else limit
    values = np.where(np.isfinite(ratios), np.maximum(ratios, floor), top)
    colors = [FAULT if not g.finite or g.ratio > limit else SOUND for g in shown]
    axis.barh(range(len(shown)), values, left=0, color=colors, height=0.8)
    axis.set_xscale("log")
    axis.set_xlim(floor, top)
    axis.axvline(limit, color=FAULT, linewidth=1, linestyle=":")
    axis.set_xlabel("norm of the gradient / norm of the weights")
    return _named(figure, axis, [g.name for g in shown])


def activation_ranges(activations: Sequence[LayerActivation]) -> bytes:
    """One line a layer: the central 98 % and 50 % of its outputs, and the median."""
    shown = [a for a in activations if a.finite]
    figure, axis = _figure(len(shown))
    q = np.array([a.quantiles for a in shown]).reshape(-1, 5)
    rows = np.arange(len(shown))
    axis.hlines(rows, q[:, 0], q[:, 4], color=SOUND, linewidth=1)
    axis.hlines(rows, q[:, 1], q[:, 3], color=SOUND, linewidth=4)
    axis.plot(q[:, 2], rows, "|", color="black", markersize=6)
    axis.set_xscale("symlog", linthresh=1.0)
    axis.set_xlabel("value of the output: 1, 25, 50, 75 and 99 %")
    return _named(figure, axis, [a.name for a in shown])


def joint_spread(spread: Sequence[float], limit: float) -> bytes:
    """One bar a joint: the spread of predictions over that of labels."""
    figure, axis = _figure(len(spread))
    axis.barh(range(len(spread)), spread, color=[FAULT if s < limit else SOUND for s in spread], height=0.8)
    axis.axvline(1.0, color="black", linewidth=1, linestyle=":")
    axis.set_xlim(0, max(1.2, *(s for s in spread if s == s), 1.2))
    axis.set_xlabel("spread of predictions / spread of labels")
    return _named(figure, axis, JOINT_NAMES[1 : len(spread) + 1])


def _figure(rows: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.0 + 0.15 * max(rows, 4)), dpi=DPI)
    return figure, figure.add_subplot()


def _named(figure, axis, names: Sequence[str]) -> bytes:
    axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="x", linewidth=0.3)
    written = io.BytesIO()
    figure.tight_layout()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()
