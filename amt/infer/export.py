"""Results beside predictions.jsonl: a table for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io

import numpy as np

from amt.hand.skeleton import JOINT_NAMES
from amt.infer.output import Lines, OutputFolder

_ABOUT = ("image", "frame", "time_s", "side", "hand_found", "spread", "box_source", "intrinsics_source", "hand")
_BOX = ("box_cx_px", "box_cy_px", "box_side_px")
_JOINT = ("x_m", "y_m", "z_m", "x_px", "y_px", "visibility", "sigma_mm")
COLUMNS = (*_ABOUT, *_BOX, *(f"{joint}_{what}" for joint in JOINT_NAMES for what in _JOINT))


class Csv(Lines):
    """``predictions.csv``: a line a hand, with the columns :data:`COLUMNS`; cells are empty where there is nothing to say."""

    def __init__(self, out: OutputFolder, name: str = "predictions.csv"):
        super().__init__(out, name, head=_row(COLUMNS) + "\n")

    def add(self, record: dict) -> None:
        """Writes one line of the ``record`` that predictions.jsonl gets."""
        cells = [record.get(name) for name in _ABOUT] + list(record["box_px"])
        columns = [record["joints_m"], record["joints_px"], record["visibility"], record["sigma_mm"]]
        for joint in range(len(JOINT_NAMES)):
            for values, count in zip(columns, (3, 2, 1, 1)):
                cells += [None] * count if values is None else np.atleast_1d(values[joint]).tolist()
        self.add_line(_row(cells))


def _row(cells) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()
