"""The report as one page of HTML that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from amt.debug import pictures
from amt.debug.debugger import EXPLODING, ModelReport, NonFinite
from amt.debug.diversity import LEAST_SPREAD, Diversity

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.fault { background: #fdecea; border-left: 4px solid #c0392b; } .sound { background: #eaf5ea; border-left: 4px solid #2e7d32; }
.fault, .sound { padding: .5rem .8rem; margin: .4rem 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; } img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; } td, th { padding: .1rem .6rem; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } tr:nth-child(even) { background: #f5f5f5; }
"""


def page(title: str, report: ModelReport, diversity: Diversity | None, nonfinite: NonFinite | None) -> str:
    """The page.

    Args:
        diversity: None where there were too few labelled hands.
        nonfinite: None where all values are finite.
    """
    faults = [*([str(nonfinite)] if nonfinite else []), *(diversity.faults if diversity else ()), *report.faults]
    verdicts = [f'<p class="fault">{escape(fault)}</p>' for fault in faults]
    parts = [f"<h1>{escape(title)}</h1>", *(verdicts or ['<p class="sound">no fault was found</p>'])]
    parts.append("<h2>Do predictions differ?</h2>")
    if diversity is None:
        parts.append("<p>There are too few labelled hands to tell.</p>")
    else:
        parts += [f"<pre>{escape(str(diversity))}</pre>"]
        if diversity.error_mm == diversity.error_mm:
            parts.append(_picture("spread by joint", pictures.joint_spread(diversity.spread, LEAST_SPREAD)))
    parts.append("<h2>Gradient flow</h2>")
    parts.append(_picture("gradient over weights, by layer", pictures.gradient_flow(report.gradients, EXPLODING)))
    if report.entropy:
        rows = [
            (name, f"{value:.3f}", f"{report.entropy_of_heads[name]:.3f}") for name, value in report.entropy.items()
        ]
        parts += ["<h2>Entropy of attention</h2>", _table(("layer", "mean, nats", "least head, nats"), rows)]
    parts += ["<h2>Activations</h2>", _picture("range by layer", pictures.activation_ranges(report.activations))]
    head = ("layer", "class", "shape", "mean", "std", "largest", "zeros", "dead units")
    parts.append(_table(head, (_activation(a) for a in report.activations)))
    head = ("parameter", "shape", "mean", "std", "largest", "zeros")
    parts += ["<h2>Parameters</h2>", _table(head, (_parameter(p) for p in report.parameters))]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _activation(a) -> Sequence[str]:
    dead = "" if a.dead is None else f"{a.dead} of {a.units}"
    return a.name, a.kind, "×".join(map(str, a.shape)), *_numbers(a), dead


def _parameter(p) -> Sequence[str]:
    return p.name, "×".join(map(str, p.shape)), *_numbers(p)


def _numbers(x) -> Sequence[str]:
    return f"{x.mean:.3g}", f"{x.std:.3g}", f"{x.largest:.3g}", f"{x.zeros:.1%}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(head, "th"), *(line(row, "td") for row in rows)]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _picture(name: str, png: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
