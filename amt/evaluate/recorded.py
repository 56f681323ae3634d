"""``evaluate.rerun=FILE.rrd``: every scored frame with its prediction and its truth, for the Rerun viewer."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from amt.data.errors import BrokenFrame
from amt.data.reader import Reader
from amt.draw.recording import Recording
from amt.draw.samples import answered_scene, true_scene
from amt.evaluate.collect import Answer
from amt.hand.batch import Batch


class RecordedFrames(Recording):
    """Takes the answers of every batch, as :class:`amt.evaluate.results.ResultWriter` does.

    The timeline "picture" is the frame's index in the subset. A hand that was missed is not shown.

    Args:
        reader: whose pictures are shown.
        faces: int [F, 3] of the model's right hand.
    """

    def __init__(self, path: Path, reader: Reader, faces: np.ndarray):
        super().__init__(path)
        self.reader, self.faces = reader, faces

    def take(self, answer: Answer, batch: Batch) -> None:
        for row, index in enumerate(batch.index.tolist()):
            one = batch[[row]]
            values = {f.name: getattr(answer, f.name) for f in fields(answer)}
            mine = replace(answer, **{name: x if x is None else x[row : row + 1] for name, x in values.items()})
            scene = answered_scene(one, mine, self.faces, full=True)
            truth = true_scene(one, self.faces, full=True) if one.targets.hand_valid[0] else None
            try:
                image = self.reader.frame_at(index).image()
            except BrokenFrame as error:
                self.reader.note_broken(error)
                continue
            found = bool(np.isfinite(scene.vertices).all())  # else the mean hand stands for a missed one
            self.add(image, [replace(scene, hand_found=found)], truth=truth, picture=index)
