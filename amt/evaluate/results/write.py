"""``evaluate.write=FOLDER``: a checkpoint's predictions in the forms of other evaluators."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amt.data import bop_csv
from amt.data.reader import Reader
from amt.evaluate.collect import Answer
from amt.evaluate.results import bop, hand_mesh, hand_pose
from amt.evaluate.results.truth import frames
from amt.files import write_text
from amt.hand.batch import Batch

AWAY = np.array((0, 0, 0.5))  # m


class ResultWriter:
    """Takes the answers of every batch; :meth:`write` makes the files: hand_pose.txt, bop.csv and pred.json.

    A frame with a labelled hand that no crop shows (the hand is outside the picture, say) gets the last argument's hand half a
    metre in front of the camera: official evaluators ask for every labelled frame.

    Args:
        reader: of a set in DexYCB's layout.
        stand_in: joints [21, 3], m, from the wrist.
    """

    def __init__(self, reader: Reader, stand_in: np.ndarray):
        self.reader, self.stand_in = reader, stand_in
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}

    def take(self, answer: Answer, batch: Batch) -> None:
        parts = (answer.joints, answer.vertices, answer.object_rotation, answer.object_translation)
        for index, *row in zip(batch.index.tolist(), *(part.numpy() for part in parts)):
            self._found[index] = tuple(row)

    def write(self, folder: Path) -> tuple[list[Path], int]:
        """The files, and how many labelled frames got the stand-in."""
        scenes = bop.SceneIds(self.reader)
        hands, meshes, joints, objects, missing = [], [], [], [], 0
        for frame in frames(self.reader):
            found = self._found.get(frame.index)
            if frame.hand_valid:
                missing += found is None
                hand = self.stand_in + AWAY if found is None else found[0]
                mesh = None if found is None else found[1]
                hands.append((frame.index, hand))
                joints.append(hand_mesh.text(hand))
                meshes.append(mesh)
            if found is not None and frame.number % bop.EVERY == 0 and frame.sequence.class_id:
                objects.append(bop_csv.line(*scenes[frame], frame.sequence.class_id, found[2], found[3]))
        size = next(mesh.shape for mesh in meshes if mesh is not None)
        away = np.broadcast_to(AWAY, size)
        vertices = [hand_mesh.text(away if mesh is None or not np.isfinite(mesh).all() else mesh) for mesh in meshes]
        written = [folder / name for name in (hand_pose.NAME, bop.NAME, hand_mesh.NAME)]
        hand_pose.write(written[0], hands)
        bop.write(written[1], objects)
        write_text(written[2], f"[[{','.join(joints)}],[{','.join(vertices)}]]")
        return written, missing
