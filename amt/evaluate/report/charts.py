"""Charts as SVG text: lines, bars and a hand, drawn without a library so that a page needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from amt.hand.skeleton import BONES, JOINT_NAMES

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 38
COLOURS = ("#0b6fb8", "#d1495b", "#2a9d5c", "#8d6cab", "#7a7f87")


def lines(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> str:
    """Curves: (name, x, y) each. ``diagonal``: both axes go from 0 to 1, and a dashed line shows where x is y."""
    xs = [x for _, values, _ in series for x in values]
    ys = [y for _, _, values in series for y in values]
    low, high = y_range or (min(0.0, *ys), max(ys) * 1.08 or 1.0)
    axes = _Axes(0.0, 1.0, 0.0, 1.0) if diagonal else _Axes(min(xs), max(xs), low, high)
    parts = [axes.frame(x_label, y_label)]
    if diagonal:
        parts.append(_line(axes.x(0), axes.y(0), axes.x(1), axes.y(1), "dash"))
    for k, (name, x, y) in enumerate(series):
        colour = COLOURS[k % len(COLOURS)]
        points = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in zip(x, y))
        parts.append(f'<polyline points="{points}" stroke="{colour}" class="line"/>')
        for a, b in zip(x, y) if len(x) < 20 else ():
            dot = f'<circle cx="{axes.x(a):.1f}" cy="{axes.y(b):.1f}" r="3" fill="{colour}">'
            parts.append(f"{dot}<title>{escape(name)}: {a:.3g}, {b:.3g}</title></circle>")
    return _svg(parts, f"{y_label} against {x_label}") + _legend([name for name, _, _ in series])


def bars(names: Sequence[str], values: Sequence[float], y_label: str, counts: Sequence[int] | None = None) -> str:
    """A bar a name, with its value on it and, where given, how many samples stand behind it."""
    axes = _Axes(0, len(names), 0, max([*values, 1e-9]) * 1.15)
    parts = [axes.frame("", y_label, x_ticks=False)]
    step = axes.x(1) - axes.x(0)
    for k, (name, value) in enumerate(zip(names, values)):
        x, y = axes.x(k) + 0.14 * step, axes.y(value)
        title = f"{name}: {value:.2f}" + (f", {counts[k]} samples" if counts else "")
        middle, place = x + 0.36 * step, f'x="{x:.1f}" y="{y:.1f}"'
        parts.append(
            f'<rect {place} width="{0.72 * step:.1f}" height="{axes.y(0) - y:.1f}" fill="{COLOURS[0]}">'
            f"<title>{escape(title)}</title></rect>"
            f'<text x="{middle:.1f}" y="{y - 4:.1f}" class="value">{_short(value)}</text>'
            f'<text x="{middle:.1f}" y="{axes.y(0) + 14:.1f}" class="tick mid">{escape(name)}</text>'
        )
        if counts:
            parts.append(f'<text x="{middle:.1f}" y="{axes.y(0) + 27:.1f}" class="tick mid">n {counts[k]}</text>')
    return _svg(parts, y_label)


def hand(places: Sequence[tuple[float, float]], values: Sequence[float], unit: str) -> str:
    """A hand with a disc a joint: the larger and redder, the farther off.

    Args:
        places: where the 21 joints are, in any unit, x right and y down; values: one a joint.
    """
    xs, ys = zip(*places)
    scale = min((WIDTH - 90) / (max(xs) - min(xs) + 1e-9), (HEIGHT + 60) / (max(ys) - min(ys) + 1e-9))
    height = (max(ys) - min(ys)) * scale + 60
    at = [((x - (max(xs) + min(xs)) / 2) * scale + WIDTH / 2, (y - min(ys)) * scale + 28) for x, y in places]
    most = max(max(values), 1e-9)
    parts = [_line(*at[a], *at[b], "bone") for a, b in BONES]
    for (x, y), value, name in zip(at, values, JOINT_NAMES):
        share = value / most
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 + 7 * share:.1f}" fill="hsl({210 - 205 * share:.0f} 70% 48%)">'
            f"<title>{escape(name)}: {value:.2f} {unit}</title></circle>"
            f'<text x="{x:.1f}" y="{y + 3:.1f}" class="joint">{value:.0f}</text>'
        )
    return _svg(parts, f"error of each joint, {unit}", height)


class _Axes:
    """Where values lie in the picture, px."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float):
        self.x_low, self.y_low = x_low, y_low
        self.x_high = x_high if x_high > x_low else x_low + 1
        self.y_high = y_high if y_high > y_low else y_low + 1

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_label: str, y_label: str, x_ticks: bool = True) -> str:
        parts = [
            _line(LEFT, self.y(y), WIDTH - RIGHT, self.y(y), "grid")
            + f'<text x="{LEFT - 5}" y="{self.y(y) + 3:.1f}" class="tick end">{y:g}</text>'
            for y in ticks(self.y_low, self.y_high)
        ]
        for x in ticks(self.x_low, self.x_high) if x_ticks else ():
            parts.append(f'<text x="{self.x(x):.1f}" y="{HEIGHT - BOTTOM + 14}" class="tick mid">{x:g}</text>')
        parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" class="label mid">{escape(x_label)}</text>')
        parts.append(
            f'<text transform="translate(11 {(HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" class="label mid">{escape(y_label)}</text>'
        )
        return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, three to six of them: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _legend(names: Sequence[str]) -> str:
    entries = (
        f'<span><i style="background:{COLOURS[k % len(COLOURS)]}"></i>{escape(name)}</span>'
        for k, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(entries)}</p>' if len(names) > 1 else ""


def _short(value: float) -> str:
    """Three digits; whole numbers from 100 on."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
