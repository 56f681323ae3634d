"""What can be read off a hand and its object: sizes and distances in millimetres, what touches, how much is seen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from amt.draw.hand_object import CONTACT_THRESHOLD
from amt.hand.skeleton import FINGER_JOINTS, JOINT_NAMES, TIPS
from amt.infer.result import Result

MIDDLE_CHAIN = (0, 9, 10, 11, 12)  # from the wrist to the middle finger's tip
INDEX_KNUCKLE, LITTLE_KNUCKLE = 5, 17
SEEN = 0.5  # probability from which on a joint counts as seen


def measures(result: Result) -> dict:
    """Numbers of a hand that was found, ready for JSON.

    ``distance_mm``: the wrist's from the camera. ``length_mm``: along the bones from the wrist to the middle finger's tip;
    ``width_mm``: between the knuckles of index and little finger; ``aperture_mm``: between the tips of thumb and index finger.
    ``touching_share`` (0-1): of the hand's vertices; ``touching``: the fingers and "palm" that own them, each vertex belonging
    to its nearest joint. ``joints_seen``: how many of 21; null where the model does not say. ``object``: null, or
    ``distance_mm`` of its centre from the camera, ``size_mm`` [3] in its own frame, and ``gap_mm``, the smallest distance from
    a vertex to one of its points. Numbers that are not finite are null.
    """
    joints = result.joints.astype(np.float64)
    contact = result.hand_contact
    touching = None if contact is None else np.asarray(contact) > CONTACT_THRESHOLD
    return {
        "distance_mm": _mm(np.linalg.norm(joints[0])),
        "length_mm": _mm(sum(np.linalg.norm(joints[b] - joints[a]) for a, b in pairwise(MIDDLE_CHAIN))),
        "width_mm": _mm(np.linalg.norm(joints[INDEX_KNUCKLE] - joints[LITTLE_KNUCKLE])),
        "aperture_mm": _mm(np.linalg.norm(joints[TIPS[0]] - joints[TIPS[1]])),
        "touching_share": None if touching is None else round(float(touching.mean()), 4),
        "touching": None if touching is None else _owners(result, touching),
        "joints_seen": None if result.visibility is None else int((result.visibility > SEEN).sum()),
        "object": _object(result) if result.has_object else None,
    }


def joint_names() -> list[str]:
    """The joints in words, in their order."""
    return [name.replace("_", " ") for name in JOINT_NAMES]


def _object(result: Result) -> dict:
    points = result.in_camera(result.object_points)
    own = result.object_points
    gaps = [np.square(result.vertices - point).sum(1).min() for point in points]
    return {
        "distance_mm": _mm(np.linalg.norm(points.mean(0))),
        "size_mm": [_mm(side) for side in own.max(0) - own.min(0)],
        "gap_mm": _mm(np.sqrt(min(gaps))),
    }


def _owners(result: Result, touching: np.ndarray) -> list[str]:
    """The parts of the hand whose vertices touch, in the fingers' order."""
    away = np.square(result.vertices[touching][:, None] - result.joints).sum(-1)
    nearest = set(away.argmin(1).tolist()) if len(away) else set()
    # A finger's first joint is its knuckle, which lies in the palm.
    found = [finger for finger, joints in FINGER_JOINTS.items() if nearest & set(joints[1:])]
    palm = {0, *(joints[0] for joints in FINGER_JOINTS.values())}
    return found + ["palm"] * bool(nearest & palm)


def _mm(metres: float) -> float | None:
    return round(1000 * float(metres), 1) if np.isfinite(metres) else None
