"""The grasps of a set as bodies: true ones from its labels, predicted ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame, DataError
from amt.data.mass import object_mass
from amt.data.meshes import read_mesh
from amt.data.objects import mesh_file
from amt.data.reader import Reader
from amt.hand.batch import Batch
from amt.physics.bodies import HandBody, ObjectBody
from amt.physics.solids import MeshError
from amt.physics.verdict import judge_all, score


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
        return ObjectBody(*read_mesh(path), object_mass(folder), objects.names[class_id])


def distinct(reader: DexYCB) -> Iterator[int]:
    """Indices of frames of which no two show the same grasp from two cameras."""
    seen = set()
    for index in range(len(reader)):
        sequence, _, number = reader.locate(index)
        if (sequence.folder, number) not in seen:
            seen.add((sequence.folder, number))
            yield index


class Judging:
    """The physics of predictions and of the labels beside them: :meth:`take` batches, then ask for :meth:`figures`.

    A grasp that several cameras see counts once among the labels. A hand that was missed, has a number that is not finite, or is
    metres large, is left out and counted.
    """

    def __init__(self, reader: Reader):
        self.grasps = Grasps(reader)
        self.predicted: list[tuple[HandBody, ObjectBody]] = []
        self.true: dict[tuple, tuple[HandBody, ObjectBody]] = {}
        self.refused = 0

    def take(self, vertices: Tensor, rotation: Tensor, translation: Tensor, batch: Batch) -> None:
        """Adds a batch whose predicted hands are [B, V, 3] (m) and objects' poses [B, 3, 3] and [B, 3] (m), all on the CPU.

        Frames without a labelled hand and object, or of an object that is not known, are left out. Raises DataError.
        """
        inputs, t = batch.inputs, batch.targets
        for k in torch.nonzero(t.hand_valid & t.object_valid & (inputs.object_class > 0)).flatten().tolist():
            class_id, side = int(inputs.object_class[k]), "right" if inputs.right[k] else "left"
            mine = [x[k].numpy() for x in (vertices, rotation, translation)]
            try:
                self.predicted.append(self.grasps.predicted(class_id, side, *mine))
            except MeshError:
                if len(mine[0]) != self.grasps.reader.hand_model(side).num_vertices:
                    raise  # the model's hand is not the set's
                self.refused += 1
            key = self._key(int(batch.index[k]))
            if key not in self.true:
                labels = (x[k].numpy() for x in (t.vertices, t.object_rotation, t.object_translation))
                self.true[key] = self.grasps.predicted(class_id, side, *labels)

    def figures(self, workers: int = 2, progress: bool = True) -> dict[str, Any]:
        """:func:`amt.physics.score` of the predictions, and under "labels" of the labels.

        "left_out" counts the hands that were missed, are not finite, or are metres large.
        """
        from tqdm import tqdm

        found, bodies = [], {held.name: held for _, held in [*self.predicted, *self.true.values()]}
        for held in tqdm(bodies.values(), desc="convex parts", unit="object", disable=not progress):
            held.hulls  # noqa: B018  (found once, before threads share it)
        for name, pairs in (("predictions", self.predicted), ("labels", list(self.true.values()))):
            bar = tqdm(pairs, desc=f"physics of the {name}", unit="grasp", disable=not progress)
            found.append(score(judge_all(bar, workers=workers)))
        return {**found[0], "left_out": self.refused, "labels": found[1]}

    def _key(self, index: int) -> tuple:
        """What frames of one grasp from several cameras have in common."""
        locate = getattr(self.grasps.reader, "locate", None)
        if locate is None:
            return (index,)
        sequence, _, number = locate(index)
        return sequence.folder, number
