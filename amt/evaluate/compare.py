"""``python -m amt.evaluate.compare A B``: two evaluations of the same frames side by side, with paired bootstrap intervals.

    python -m amt.evaluate.compare OLD/checkpoint NEW/checkpoint                  which amt.evaluate has scored
    python -m amt.evaluate.compare OLD/metrics.json NEW/metrics.json              or their figures, with samples.csv beside them
    python -m amt.evaluate.compare OLD/checkpoint NEW/checkpoint data.root=SET    scores both first, on this set

Frames of one sequence look alike. An interval therefore draws whole sequences, with replacement, the same ones for A and B:
the middle 95 % of the differences of 10,000 such draws. "better" and "worse" are said where it does not hold 0.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amt.config import compose, split_words
from amt.errors import UsageError
from amt.evaluate.config import PROGRAM
from amt.evaluate.samples import SampleTable, read_samples
from amt.model.checkpoint import METRICS, SAMPLES, read_record
from amt.startup import run_program

DRAWS, SEED = 10_000, 0
FEW = 20  # sequences; a bootstrap of fewer is rough
MEANS = (  # lower is better
    ("wrist-aligned MPJPE, mm", "wrist_aligned_mpjpe_mm"),
    ("Procrustes MPJPE, mm", "procrustes_mpjpe_mm"),
    ("absolute MPJPE, mm", "absolute_mpjpe_mm"),
    ("object ADD-S, mm", "adds_mm"),
    ("object centre (OCE), mm", "oce_mm"),
    ("object rotation, degrees", "rotation_deg"),
)
SAME = ("data", "split", "subset", "protocol", "box")  # of metrics.json, which must agree


@dataclass(frozen=True)
class Difference:
    """A figure of both, and the interval of B - A."""

    name: str
    a: float
    b: float
    low: float
    high: float
    lower_is_better: bool = True

    @property
    def verdict(self) -> str:
        if self.low <= 0 <= self.high:
            return "not told apart"
        return "better" if (self.high < 0) == self.lower_is_better else "worse"


def main(arguments: list[str] | None = None) -> int:
    """Compares; 0, or 2 after one line that names what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.evaluate.compare", lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    sides, words = split_words(arguments)
    if len(sides) != 2:
        raise UsageError(
            f"expected two evaluations A and B, got {len(sides)}; see python -m amt.evaluate.compare --help"
        )
    places = [Path(side) for side in sides]
    if words:
        for place in places:
            _evaluate(place, words)
    records, tables = zip(*(_read(place) for place in places))
    for key in SAME:
        if records[0].get(key) != records[1].get(key):
            raise UsageError(
                f"A has {key} {records[0].get(key)!r} and B has {records[1].get(key)!r}: such figures do not "
                "compare; score both on the same frames"
            )
    print(f"A: {sides[0]}\nB: {sides[1]}\n{text(compare(*tables), *tables)}")
    return 0


def compare(a: SampleTable, b: SampleTable, draws: int = DRAWS, seed: int = SEED) -> list[Difference]:
    """The difference of every figure that both have. Raises UsageError unless both are of the same frames."""
    order_a, order_b = np.argsort(a.index), np.argsort(b.index)
    if len(a.index) != len(b.index) or (a.index[order_a] != b.index[order_b]).any():
        both = len(np.intersect1d(a.index, b.index))
        raise UsageError(
            f"A has {len(a.index)} frames and B {len(b.index)}, {both} of them the same: score both on the same frames"
        )
    names = np.char.add(np.char.add(a.names["subject"][order_a], "/"), a.names["sequence"][order_a])
    sequences, group = np.unique(names, return_inverse=True)
    draws = draws if len(sequences) > 1 else 0  # one sequence says nothing of others
    weights = np.random.default_rng(seed).multinomial(
        len(sequences), np.full(len(sequences), 1 / len(sequences)), draws
    )

    def sums(values: np.ndarray) -> np.ndarray:
        """float64 [draws + 1]: the sum over the frames of each draw; the last one is of all frames."""
        each = np.bincount(group, values, len(sequences))
        return np.append(weights @ each, each.sum())

    found = []
    some_missed = any((table.numbers["found"] == 0).any() for table in (a, b))
    for label, key in MEANS:
        label = label.replace("MPJPE", "MPJPE-p") if some_missed else label
        x, y = a.numbers[key][order_a], b.numbers[key][order_b]
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            count = np.maximum(sums(known.astype(float)), 1)
            found.append(_difference(label, *(sums(np.where(known, v, 0)) / count for v in (x, y))))
    counts = [
        [np.nan_to_num(t.numbers[f"contact_{name}"][order]) for name in ("hits", "said", "true")]
        for t, order in ((a, order_a), (b, order_b))
    ]
    if counts[0][2].any():
        scores = [2 * sums(hits) / np.maximum(sums(said) + sums(true), 1) for hits, said, true in counts]
        found.append(_difference("contact F1, hand vertices", *scores, lower_is_better=False))
    return found


def text(found: list[Difference], a: SampleTable, b: SampleTable) -> str:
    """A line a figure."""
    sequences = len({*zip(a.names["subject"], a.names["sequence"])})
    lines = [
        f"{len(a.index)} frames of {sequences} sequence{'s' if sequences != 1 else ''}, 95 % intervals of {DRAWS} draws"
    ]
    if sequences < FEW:
        lines.append(f"fewer than {FEW} sequences: the intervals are too narrow to be trusted")
    missed = [int((table.numbers["found"] == 0).sum()) for table in (a, b)]
    if any(missed):
        lines.append(
            f"missed hands ({missed[0]} of A, {missed[1]} of B) count as the mean hand and object at their true box"
        )
    lines.append(f"{'':28s}{'A':>10s}{'B':>10s}{'B - A':>10s}{'interval':>22s}  B is")
    for d in found:
        digits = 3 if max(d.a, d.b) < 2 else 2
        interval = f"{d.low:+.{digits}f} to {d.high:+.{digits}f}" if np.isfinite(d.low) else "not known"
        lines.append(
            f"{d.name:28s}{d.a:10.{digits}f}{d.b:10.{digits}f}{d.b - d.a:+10.{digits}f}{interval:>22s}  {d.verdict}"
        )
    return "\n".join(lines)


def _difference(label: str, a: np.ndarray, b: np.ndarray, lower_is_better: bool = True) -> Difference:
    low, high = np.quantile((b - a)[:-1], (0.025, 0.975)) if len(a) > 1 else (-np.inf, np.inf)
    return Difference(label, float(a[-1]), float(b[-1]), float(low), float(high), lower_is_better)


def _evaluate(place: Path, words: list[str]) -> None:
    if place.suffix == ".json":
        raise UsageError(f"{place}: figures cannot be scored on another set; name checkpoints, or leave {words[0]} out")
    settings = compose(PROGRAM, [*words, "evaluate.report=off"], read_record(place))
    from amt.evaluate.run import run

    run(place, settings)


def _read(place: Path) -> tuple[dict, SampleTable]:
    """metrics.json and samples.csv of a side."""
    path = place if place.suffix == ".json" else place / METRICS
    if not path.is_file():
        remedy = (
            "score it with python -m amt.evaluate" if place.is_dir() else "name a checkpoint's folder or a metrics.json"
        )
        raise UsageError(f"{path}: no such file; {remedy}")
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({error}); score it anew with python -m amt.evaluate") from error
    if not isinstance(record, dict):
        raise UsageError(f"{path}: holds no figures; score it anew with python -m amt.evaluate")
    return record, read_samples(path.with_name(SAMPLES))


if __name__ == "__main__":
    sys.exit(main())
