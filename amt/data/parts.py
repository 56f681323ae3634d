"""What a set has in any layout: hands, object models, and a count of its broken files. Layouts add frames to it."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from amt.data.errors import DataError, FileError, MissingHand
from amt.data.files import read_file
from amt.data.layout import SYNTHETIC_RECORD
from amt.data.objects import ObjectModels
from amt.hand.contact import contact_labels
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.shipped import shipped_hand
from amt.hand.skeleton import SHIPPED_HAND

if TYPE_CHECKING:
    from amt.data.set_folder import Frame

log = logging.getLogger(__name__)


class SetParts:
    """Hands and objects of a set.

    Args:
        root: the set's folder, with ``models``.
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl. Not needed for a set rendered with AMT's own hand.
    """

    def __init__(self, root: str | Path, mano: str | Path | None = None):
        self.root, self.mano = Path(root), None if mano is None else Path(mano)
        self.broken: dict[str, dict[Path, None]] = defaultdict(dict)  # reason: files, in the order they were met
        self.hand_model, self.layer = cache(self._read_hand), cache(self._read_layer)

    @cached_property
    def record(self) -> dict:
        """What the synthetic writer noted about the set; empty for a recorded one. Raises DataError."""
        note = self.root / SYNTHETIC_RECORD
        if not note.is_file():
            return {}
        try:
            record = json.loads(read_file(note))
        except (ValueError, OSError, RecursionError) as error:
            raise FileError(note, f"is not readable as JSON ({error})", "render the set anew") from error
        if not isinstance(record, dict):
            raise FileError(note, "is no JSON object", "render the set anew")
        return record

    @property
    def num_vertices(self) -> int:
        """Of the mesh of the set's hands, right and left alike. Raises DataError."""
        return self.hand_model("right").num_vertices

    @cached_property
    def objects(self) -> ObjectModels:
        """The object models. Raises DataError."""
        return ObjectModels(self.root, {int(c): n for c, n in self.record.get("object_names", {}).items()})

    def contacts(self, frame: Frame, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Contacts of the hand (bool [V]) and of the object's cloud (bool [N]): the set's own, or else by distance.

        Args:
            vertices: float32 [V, 3], m: the true hand.
        """
        cloud = self.objects.cloud(frame.sequence.class_id)
        known = self.known_contacts(frame)
        if known is not None and known[0].shape == vertices.shape[:1] and known[1].shape == cloud.shape[:1]:
            return known
        if not frame.object_valid:
            return np.zeros(len(vertices), bool), np.zeros(len(cloud), bool)
        posed = torch.from_numpy(cloud @ frame.object_rotation.T + frame.object_translation)
        hand, points = contact_labels(torch.from_numpy(vertices), posed)
        return hand.numpy(), points.numpy()

    def known_contacts(self, frame: Frame) -> tuple[np.ndarray, np.ndarray] | None:
        """Contacts that the set itself holds for a frame."""
        return None

    def contact_distances(self, frame: Frame) -> tuple[np.ndarray, np.ndarray] | None:
        """Signed distances of a frame, float32 m: [V], the hand's vertices to the object; [N], the object's cloud to the hand.

        Negative inside the other; None where the set does not say them, as a recorded one.
        """
        return None

    def note_broken(self, error: FileError) -> None:
        """Counts a broken file; the first of each kind of fault is told at once."""
        files = self.broken[error.reason]
        if not files:
            log.warning("skipped %s (the first such file; they are counted)", error)
        files[error.path] = None

    def report(self) -> str:
        """One line on what was skipped: a count for each reason and its first file. Empty if nothing was."""
        return count_by_reason({reason: (len(files), next(iter(files))) for reason, files in self.broken.items()})

    def _read_layer(self, side: str) -> ManoLayer:
        return ManoLayer(self.hand_model(side))

    def _read_hand(self, side: str) -> HandModel:
        if self.record.get("hand") in (SHIPPED_HAND, "stand-in"):  # "stand-in": the procedural hand of earlier versions
            if self.record.get("hand_digest") != shipped_hand("right").digest:
                raise DataError(f"{self.root}: was rendered with another version of AMT's own hand; render it anew")
            return shipped_hand(side)
        if self.mano is None:
            raise MissingHand(
                f"{self.root}: its hands are MANO's, and MANO's files cannot be shipped; get them from "
                "mano.is.tue.mpg.de and name their folder (data.mano=FOLDER)"
            )
        from amt.hand.mano_file import load_mano

        path = self.mano / f"MANO_{side.upper()}.pkl"
        try:
            return load_mano(path, side)
        except FileNotFoundError as error:
            raise MissingHand(str(error)) from error
        except ValueError as error:
            raise DataError(str(error)) from error


def is_rigid(pose: np.ndarray) -> bool:
    """Whether [3, 4] is a rotation and a translation; zeros, which stand for a missing pose, are not."""
    rotation = pose[:, :3].astype(np.float64)
    if not np.isfinite(pose).all():
        return False
    return bool(np.abs(rotation @ rotation.T - np.eye(3)).max() < 0.01 and np.linalg.det(rotation) > 0)


def count_by_reason(broken: dict[str, tuple[int, str | Path]]) -> str:
    """One line of {reason: (count, first file)}."""
    return "; ".join(f"{count} skipped: {reason} (the first: {first})" for reason, (count, first) in broken.items())
