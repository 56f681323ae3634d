"""predictions.jsonl, a line a hand, and predictions.csv, the same for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
from typing import Self

import numpy as np

from amt.hand.skeleton import JOINT_NAMES
from amt.infer.output import Lines, Records
from amt.infer.writers.entry import Entry, Setup

_ABOUT = ("image", "frame", "time_s", "side", "hand_found", "spread", "box_source", "intrinsics_source", "hand")
_BOX = ("box_cx_px", "box_cy_px", "box_side_px")
_JOINT = ("x_m", "y_m", "z_m", "x_px", "y_px", "visibility", "sigma_mm")
_OBJECT = ("object_class", *(f"object_r{i}{j}" for i in range(3) for j in range(3)), *(f"object_t{x}_m" for x in "xyz"))
COLUMNS = (*_ABOUT, *_BOX, *(f"{joint}_{what}" for joint in JOINT_NAMES for what in _JOINT), *_OBJECT)


class JsonLines:
    """``predictions.jsonl``: the records of an entry, as they are."""

    def __init__(self, setup: Setup):
        self.file = Records(setup.out)

    def __enter__(self) -> Self:
        self.file.__enter__()
        return self

    def add(self, entry: Entry) -> None:
        for record in entry.records:
            self.file.add(record)

    def __exit__(self, *error: object) -> None:
        self.file.__exit__(*error)


class Csv:
    """``predictions.csv``: a line a hand, with the columns :data:`COLUMNS`; cells are empty where there is nothing to say."""

    def __init__(self, setup: Setup):
        self.file = Lines(setup.out, "predictions.csv", head=_row(COLUMNS) + "\n")

    def __enter__(self) -> Self:
        self.file.__enter__()
        return self

    def add(self, entry: Entry) -> None:
        for record in entry.records:
            cells = [record.get(name) for name in _ABOUT] + list(record["box_px"])
            columns = [record["joints_m"], record["joints_px"], record["visibility"], record["sigma_mm"]]
            for joint in range(len(JOINT_NAMES)):
                for values, count in zip(columns, (3, 2, 1, 1)):
                    cells += [None] * count if values is None else np.atleast_1d(values[joint]).tolist()
            held = record["object"]
            pose = None if held is None else (held["class_id"], *np.ravel(held["rotation"]), *held["translation_m"])
            self.file.add_line(_row(cells + (list(pose) if pose else [None] * len(_OBJECT))))

    def __exit__(self, *error: object) -> None:
        self.file.__exit__(*error)


def _row(cells) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()
