"""What a picture shows: one hand and the object in it, as NumPy arrays in metres and pixels; how far two of them are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from amt.hand.objects import box_corners

CONTACT_THRESHOLD = 0.5  # probability from which on a point counts as touching


class Lens(Protocol):
    """What drawing needs of a lens with distortion; :class:`amt.infer.lens.Lens` is one."""

    def plane(self, points: np.ndarray) -> np.ndarray:
        """[N, 2]: where points [N, 3] (m, camera frame) appear in the plane z = 1, behind the lens."""
        ...


@dataclass(frozen=True, kw_only=True)
class HandObject:
    """One hand and, where known, the object in it: what a picture shows, predicted or true.

    Camera frame of the full image: metres, x right, y down, z forward.
    """

    side: str  # "right" or "left"
    intrinsics: np.ndarray  # float32 [3, 3], px: K of the full image
    joints: np.ndarray  # float32 [21, 3], m: order of amt.hand.skeleton.JOINT_NAMES
    vertices: np.ndarray | None = None  # float32 [V, 3], m; None where only the joints are known
    faces: np.ndarray | None = None  # int [F, 3]: triangles of the hand, counter-clockwise from outside
    object_class: int = 0  # 1-21 as in YCB, 0 where the object is unknown
    object_points: np.ndarray | None = None  # float32 [P, 3], m, in the object's own frame; None: no object
    object_rotation: np.ndarray | None = None  # float32 [3, 3], object to camera
    object_translation: np.ndarray | None = None  # float32 [3], m
    hand_contact: np.ndarray | None = None  # float32 [V], 0-1: probability that the vertex touches the object
    object_contact: np.ndarray | None = None  # float32 [P], 0-1: probability that the point touches the hand

    lens: Lens | None = None  # the picture's distortion; None: a pinhole camera took it
    hand_found: bool = True  # False: the fields hold what the model says of a picture without a hand

    def in_camera(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] of the object's own frame, in the camera's."""
        return points @ self.object_rotation.T + self.object_translation

    @property
    def object_box(self) -> np.ndarray:
        """[8, 3], m: corners of the box around the object's points in the camera's frame, in the order of ``box_corners``."""
        return self.in_camera(box_corners(self.object_points))

    @property
    def has_object(self) -> bool:
        """Whether there is an object with a pose."""
        return self.object_points is not None and self.object_rotation is not None


def errors(result: HandObject, truth: HandObject) -> dict[str, float]:
    """How far a prediction lies from the truth, in millimetres.

    ``absolute_mm`` and ``wrist_aligned_mm`` are mean distances over the 21 joints, as they are and with the wrists put on
    each other; where both know the object, ``object_centre_mm`` is the distance of the centres of its points, and
    ``object_adds_mm`` the mean over predicted points of the nearest true one.
    """

    def mean_mm(a, b):
        return float(1000 * np.linalg.norm(a - b, axis=-1).mean())

    found = {
        "absolute_mm": mean_mm(result.joints, truth.joints),
        "wrist_aligned_mm": mean_mm(result.joints - result.joints[:1], truth.joints - truth.joints[:1]),
    }
    if result.has_object and truth.has_object:
        predicted, true = result.in_camera(result.object_points), truth.in_camera(truth.object_points)
        nearest = np.sqrt(np.square(predicted[:, None] - true[None]).sum(-1).min(1))
        found["object_centre_mm"] = mean_mm(predicted.mean(0), true.mean(0))
        found["object_adds_mm"] = float(1000 * nearest.mean())
    return found
