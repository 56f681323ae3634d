"""The grasps of a set as bodies: true ones from its labels, predicted ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame, DataError
from amt.data.meshes import read_mesh
from amt.data.object_card import CARD, read_card
from amt.data.objects import mesh_file
from amt.data.reader import Reader
from amt.physics.bodies import HandBody, ObjectBody


class Grasps:
    """The grasps of a reader's frames.

    Args:
        reader: of a set with meshes in its ``models``.
    """

    def __init__(self, reader: Reader):
        self.reader = reader
        self.object = cache(self._object)

    def true(self, index: int) -> tuple[HandBody, ObjectBody] | None:
        """The labelled grasp of a frame, in its camera's frame.

        None where hand or object is not labelled, or the frame cannot be read (``reader.report()``)."""
        try:
            frame = self.reader[index]
        except BrokenFrame as error:
            self.reader.note_broken(error)
            return None
        if not (frame.hand_valid and frame.object_valid and frame.sequence.class_id):
            return None
        side = frame.sequence.side
        with torch.no_grad():
            values = (torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation))
            vertices = self.reader.layer(side)(*values).vertices[0].numpy()
        return self.predicted(frame.sequence.class_id, side, vertices, frame.object_rotation, frame.object_translation)

    def predicted(
        self, class_id: int, side: str, vertices: np.ndarray, rotation: np.ndarray, translation: np.ndarray
    ) -> tuple[HandBody, ObjectBody]:
        """A grasp of an object of the set by a hand's vertices [V, 3] (m)."""
        return HandBody.of(vertices, self.reader.hand_model(side)), self.object(class_id).at(rotation, translation)

    def _object(self, class_id: int) -> ObjectBody:
        objects = self.reader.objects
        folder = objects.folder / objects.names[class_id]
        path = mesh_file(folder)
        if path is None:
            raise DataError(f"{folder}: holds no mesh, and physics needs one; put the set's models in place")
        mass = read_card(folder / CARD).mass if (folder / CARD).is_file() else None
        return ObjectBody(*read_mesh(path), mass, objects.names[class_id])


def distinct(reader: DexYCB) -> Iterator[int]:
    """Indices of frames of which no two show the same grasp from two cameras."""
    seen = set()
    for index in range(len(reader)):
        sequence, _, number = reader.locate(index)
        if (sequence.folder, number) not in seen:
            seen.add((sequence.folder, number))
            yield index
