"""predictions.rrd: the recording for the Rerun viewer."""

from __future__ import annotations

from typing import Self

from amt.draw.recording import Recording
from amt.infer.writers.entry import Entry, Setup


class Recorded:
    """``predictions.rrd``, or the file that ``--rerun`` names."""

    name = "predictions.rrd"

    def __init__(self, setup: Setup):
        self.out, self.own = setup.out, setup.rerun is None
        self.recording = Recording(setup.out.claim(self.name) if self.own else setup.rerun)

    def __enter__(self) -> Self:
        self.recording.__enter__()
        return self

    def add(self, entry: Entry) -> None:
        picture = entry.picture
        self.recording.add(picture.image, entry.results, entry.numbers, entry.truth, picture.frame, picture.time_s)

    def __exit__(self, *error: object) -> None:
        self.recording.__exit__(*error)
        if self.own:
            self.out.finish(self.name)
