"""samples.csv: a row of errors a sample, beside metrics.json; what two evaluations are compared by."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amt.errors import UserError
from amt.evaluate.collect import OBJECT, Samples
from amt.files import write_text

PLACES = ("subject", "sequence", "camera", "object")
NUMBERS = (
    "found", "visible_joints", "distance_m", "view_deg", "wrist_aligned_mpjpe_mm", "procrustes_mpjpe_mm", "absolute_mpjpe_mm",
    "adds_mm", "oce_mm", "rotation_deg", "contact_hits", "contact_said", "contact_true",
)  # fmt: skip
MOST_BYTES = 1 << 30


class SamplesError(UserError, ValueError):
    """A samples.csv that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class SampleTable:
    """The rows of one file."""

    index: np.ndarray  # int64 [N]
    names: dict[str, np.ndarray]  # PLACES: text [N]
    numbers: dict[str, np.ndarray]  # NUMBERS: float64 [N]; NaN where the labels or the model say nothing


def write_samples(path: Path, s: Samples, places: Mapping[str, list[str]]) -> None:
    """Writes the file whole or not at all. Errors have four decimals, an empty field says nothing."""
    columns = {
        "found": (~s.missed).double(),
        "visible_joints": s.visible.sum(dim=1).double().masked_fill(~s.visible_known, float("nan")),
        "distance_m": s.distance_m,
        "view_deg": s.view_deg,
        "wrist_aligned_mpjpe_mm": s.model.aligned_mm.mean(dim=1),
        "procrustes_mpjpe_mm": s.model.procrustes_mm.mean(dim=1),
        "absolute_mpjpe_mm": s.model.absolute_mm.mean(dim=1),
        "adds_mm": s.model.object_mm[:, OBJECT.index("adds")],
        "oce_mm": s.model.object_mm[:, OBJECT.index("oce")],
        "rotation_deg": s.model.object_deg,
        **{f"contact_{name}": s.model.contact[:, k].double() for k, name in enumerate(("hits", "said", "true"))},
    }
    for name, column in columns.items():
        labelled = s.hand_valid
        if name in ("adds_mm", "oce_mm", "rotation_deg"):
            labelled = s.object_valid
        elif name.startswith("contact"):
            labelled = s.contact_valid
        columns[name] = column.masked_fill(~labelled, float("nan")).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("index", *PLACES, *NUMBERS))
    for row, index in enumerate(s.index.tolist()):
        values = (columns[name][row] for name in NUMBERS)
        writer.writerow((index, *(places[name][row] for name in PLACES), *(_text(value) for value in values)))
    write_text(path, text.getvalue())


def read_samples(path: Path) -> SampleTable:
    """Raises SamplesError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SamplesError(f"{path}: is larger than 1 GiB, which no samples.csv is")
        rows = list(csv.reader(io.StringIO(path.read_text())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SamplesError(f"{path}: cannot be read ({error}); evaluate anew, amt.evaluate writes it") from error
    header = ["index", *PLACES, *NUMBERS]
    if not rows or rows[0] != header:
        raise SamplesError(
            f"{path}: its first line is not that of a samples.csv; evaluate anew, amt.evaluate writes it"
        )
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise SamplesError(f"{path}: line {line} has {len(row)} fields, expected {len(header)}; evaluate anew")
    table = np.array(rows[1:], dtype=object).reshape(-1, len(header))
    try:
        index = table[:, 0].astype(np.int64)
        numbers = np.where(table[:, 1 + len(PLACES) :] == "", "nan", table[:, 1 + len(PLACES) :]).astype(np.float64)
    except (ValueError, OverflowError) as error:
        raise SamplesError(f"{path}: holds something else than numbers ({error}); evaluate anew") from error
    if len(np.unique(index)) != len(index):
        raise SamplesError(f"{path}: names a frame twice; evaluate anew")
    names = {name: table[:, 1 + k].astype(str) for k, name in enumerate(PLACES)}
    return SampleTable(index, names, dict(zip(NUMBERS, numbers.T)))


def _text(value: float) -> str:
    return "" if value != value else f"{value:.4f}".rstrip("0").rstrip(".")
