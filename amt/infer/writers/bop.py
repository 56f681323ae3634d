"""predictions_bop.csv: object poses in BOP's form, one line an object and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from amt.data.bop_csv import HEADER, line
from amt.infer.output import Lines
from amt.infer.writers.entry import Entry, Setup


class Bop:
    """``predictions_bop.csv``: ``scene_id`` counts the folders of the pictures (a video is one), ``im_id`` is a video's frame or
    the picture's place, ``obj_id`` the class (1-21 as in YCB; 0: an object of the user's own), ``score`` 1 - spread. R takes the
    object's own frame to the camera's; t is in millimetres.
    """

    def __init__(self, setup: Setup):
        self.setup, self.file = setup, Lines(setup.out, "predictions_bop.csv", head=HEADER + "\n")
        self.scenes: dict[Path, int] = {}

    def __enter__(self) -> Self:
        self.file.__enter__()
        return self

    def add(self, entry: Entry) -> None:
        picture = entry.picture
        place = picture.path.parent if picture.frame is None else picture.path
        if picture.frame is not None and picture.path.stem == picture.name:  # pictures as the frames of a video
            place = picture.path.parent
        scene = self.scenes.setdefault(place, len(self.scenes))
        number = entry.index if picture.frame is None else picture.frame
        for result in entry.results:
            if result.hand_found and result.has_object:
                pose = result.object_rotation, result.object_translation
                self.file.add_line(line(scene, number, int(result.object_class), *pose, 1 - result.spread).rstrip("\n"))

    def __exit__(self, kind, *error: object) -> None:
        self.file.__exit__(kind, *error)
        if kind is None and not self.file.count:
            self.setup.say(
                f"{self.setup.out.folder / self.file.name}: not written, no hand with a known object was seen; --object names "
                "what it holds"
            )
