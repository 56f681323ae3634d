"""Which frames a published protocol scores, as named filters over an index, and how many frames the official splits have.

A figure belongs to one protocol, and figures of two protocols do not stand in one column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from amt.data.errors import DataError
from amt.data.layout import PROTOCOL_NAMES
from amt.data.meshes import read_mesh
from amt.data.objects import ObjectModels, mesh_file
from amt.data.windows import find_windows, tile

WINDOW = 16  # frames that protocol X scores together, as HaWoR and HaPTIC do
CONTACT_MM = (
    50.0  # protocol R: from the nearest joint to the nearest vertex of the object (ArtiBoost's public configuration)
)


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Attributes:
        name: its letter.
        split: the only split that it is defined on; None: any.
        scores: what it scores, in words.
        admits: bool [N] of the columns of N frames: "hand", "object" (labelled), "right", "distance" (mm, nearest joint to
            nearest vertex of the object in the hand), "run" (equal for the frames of one sequence and camera) and "number" (of
            the frame in its sequence).
    """

    name: str
    split: str | None
    scores: str
    admits: Callable[[Mapping[str, np.ndarray]], np.ndarray]


def _labelled(frames: Mapping[str, np.ndarray]) -> np.ndarray:
    return frames["hand"]


def _held_right(frames: Mapping[str, np.ndarray]) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # nan: the distance is not known
        return frames["hand"] & frames["right"] & frames["object"] & (frames["distance"] <= CONTACT_MM)


def _in_windows(frames: Mapping[str, np.ndarray]) -> np.ndarray:
    hands = np.flatnonzero(frames["hand"])
    found = np.zeros(len(frames["hand"]), bool)
    if len(hands):
        run, number = frames["run"][hands], frames["number"][hands]
        found[hands[tile(find_windows(run, number, WINDOW, 1), len(hands)).ravel()]] = True
    return found


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("T", None, "all labelled hands, left and right; absolute, root-relative, Procrustes", _labelled),
        Protocol("V", "s0", "all labelled hands, left ones mirrored; wrist-aligned, true joint box x 1.5", _labelled),
        Protocol("R", "s0", f"right hands within {CONTACT_MM:g} mm of the object in the hand", _held_right),
        Protocol("F", "s0", "all labelled hands, left and right, with the object (dexycb_full)", _labelled),
        Protocol(
            "X", "s0", f"labelled hands in whole windows of {WINDOW} frames that share none; true boxes", _in_windows
        ),
    )
}

# (split, subset): frames, and frames with a labelled hand, of the whole recorded set. From papers and toolkits.
OFFICIAL = {
    ("s0", "train"): ("465,504", "406,888"),
    ("s0", "val"): ("23,200", ""),
    ("s0", "test"): ("over 90,000", "about 78,000"),
    ("s1", "train"): ("407,088", ""),
    ("official", "train"): ("83,325", "83,325"),  # HO-3D version 3
    ("official", "test"): ("20,137", "0"),
}


def find_protocol(name: str, split: str) -> Protocol:
    """The protocol of that name. Raises DataError where there is none, or where it is not defined on ``split``."""
    if name not in PROTOCOLS:
        raise DataError(f"protocol must be one of {', '.join(PROTOCOL_NAMES)}; got {name!r}")
    protocol = PROTOCOLS[name]
    if protocol.split not in (None, split):
        raise DataError(f"protocol {name} is defined on split {protocol.split}; got {split}")
    return protocol


class ObjectDistances:
    """How far hands are from the objects that they hold.

    Args:
        objects: the set's models; the vertices of their meshes count, or points.xyz where there is no mesh.
    """

    def __init__(self, objects: ObjectModels):
        self.objects = objects
        self._trees: dict[int, cKDTree | None] = {}

    def nearest(self, class_id: int, joints: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
        """float32 [...]: mm from the nearest joint to the nearest vertex; nan where the set has no model of the class.

        Args:
            joints: [..., 21, 3], m; rotation: [..., 3, 3]; translation: [..., 3], m: the pose of the object.
        """
        if class_id not in self._trees:
            self._trees[class_id] = self._tree(class_id)
        tree = self._trees[class_id]
        if tree is None:
            return np.full(joints.shape[:-2], np.nan, np.float32)
        local = (joints - translation[..., None, :]) @ rotation  # into the object's own frame
        return (tree.query(local)[0].min(-1) * 1000).astype(np.float32)

    def _tree(self, class_id: int) -> cKDTree | None:
        try:
            mesh = mesh_file(self.objects.folder / self.objects.names[class_id])
            return cKDTree(self.objects.cloud(class_id) if mesh is None else read_mesh(mesh)[0])
        except (DataError, KeyError):
            return None


def admitted_rows(name: str, split: str, rows: Mapping[str, np.ndarray], objects: ObjectModels) -> np.ndarray:
    """int64: which rows of a crop cache a protocol scores.

    Args:
        rows: the cache: "hand_valid", "object_valid", "right", "object_class", "joints", the object's pose, "run" and "number"
            of each frame.

    Raises:
        DataError: the protocol is not defined on the split, it takes models that the set lacks, or it admits no row.
    """
    protocol = find_protocol(name, split)
    held = np.array(rows["object_valid"])
    columns = {"hand": np.array(rows["hand_valid"]), "object": held, "right": np.array(rows["right"])}
    columns |= {"run": np.array(rows["run"]), "number": np.array(rows["number"])}
    columns["distance"] = np.full(len(held), np.nan, np.float32)
    if name == "R":
        distances, classes = ObjectDistances(objects), np.array(rows["object_class"])
        poses = [rows[name] for name in ("joints", "object_rotation", "object_translation")]
        for class_id in np.unique(classes[held]):
            mine = np.flatnonzero(held & (classes == class_id))
            columns["distance"][mine] = distances.nearest(int(class_id), *(part[mine] for part in poses))
        if np.isnan(columns["distance"][held]).any():
            raise DataError(
                f"{objects.folder}: protocol R takes every object's model; put the set's models folder in place"
            )
    found = np.flatnonzero(protocol.admits(columns))
    if not len(found):
        raise DataError(f"data.protocol={name}: it scores none of {len(held)} frames; take another protocol or subset")
    return found
