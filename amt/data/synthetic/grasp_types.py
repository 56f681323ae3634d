"""Grasp types: which fingers hold, in which postures, and which types suit an object of a given thickness.

A precision type (all but power) names pairs of places on the hand that press against each other: the thumb's pad, and the pad or
the thumb's side of the index finger. Postures are drawn within ranges and kept where the two places face each other. An object's
thickness then chooses among them (see grasps.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from amt.data.synthetic.objects import Shape
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.skin import vertex_normals
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

FACING = 0.5  # cosine between each place's normal and the line to the other, at least
DRAWN = 1000  # postures


@dataclass(frozen=True)
class GraspType:
    """What a type of grasp is."""

    name: str
    fingers: tuple[int, ...]  # that hold: 0 thumb to 4 little finger
    side: bool = False  # the thumb presses against the index finger's side, not its pad
    # Degrees, lowest and highest, of base, middle and outer joint: thumb, then the fingers that hold, then the others.
    thumb: tuple = ((-28, 8), (-4, 28), (2, 32))
    holding: tuple = ((14, 65), (20, 68), (10, 48))
    others: tuple = ((4, 16), (12, 30), (8, 20))
    opposition: tuple = (0.25, 1.0)  # rad


POWER = GraspType("power", (0, 1, 2, 3, 4))
TYPES = {
    t.name: t
    for t in (
        POWER,
        GraspType("pinch", (0, 1)),
        GraspType("tripod", (0, 1, 2), others=((45, 65), (55, 80), (25, 40))),
        GraspType(
            "lateral",
            (0, 1),
            side=True,
            thumb=((-28, 2), (-4, 40), (2, 45)),
            holding=((50, 80), (30, 75), (10, 50)),
            others=((40, 58), (35, 60), (10, 30)),  # closer ones cut into each other
            opposition=(0.05, 0.45),
        ),
    )
}

# How often each type is tried. By the object's thinnest side (m, below), except for these shapes.
BY_THICKNESS = (
    (0.025, {"power": 0.25, "pinch": 0.25, "tripod": 0.25, "lateral": 0.25}),
    (0.055, {"power": 0.55, "pinch": 0.15, "tripod": 0.20, "lateral": 0.10}),
    (np.inf, {"power": 0.85, "pinch": 0.05, "tripod": 0.10}),
)
BY_NAME = {
    "024_bowl": {"power": 0.4, "pinch": 0.3, "lateral": 0.3},  # by its rim
    "025_mug": {"power": 0.6, "pinch": 0.15, "tripod": 0.1, "lateral": 0.15},  # by its handle and rim, too
    "035_power_drill": {"power": 1.0},
    "037_scissors": {"power": 0.2, "pinch": 0.2, "tripod": 0.2, "lateral": 0.4},
    "040_large_marker": {"power": 0.15, "pinch": 0.25, "tripod": 0.45, "lateral": 0.15},
}


def choose_type(shape: Shape, rng: np.random.Generator) -> GraspType:
    """A type for an object, at random with the table's shares."""
    thinnest = shape.extent.min()
    shares = BY_NAME.get(shape.name) or next(row for limit, row in BY_THICKNESS if thinnest < limit)
    return TYPES[str(rng.choice(list(shares), p=list(shares.values())))]


class Postures(NamedTuple):
    """Hands whose thumb faces what it presses against, in the hand's frame."""

    angles: np.ndarray  # float64 [N, 5, 3], rad
    opposition: np.ndarray  # float64 [N], rad
    thumb: np.ndarray  # float64 [N, 3], m: the thumb's pad
    against: np.ndarray  # float64 [N, 3], m: the place that it presses against


def postures(hand: Hand, kind: GraspType, rng: np.random.Generator) -> Postures:
    """Postures of a precision type; at least one."""
    angles = np.empty((DRAWN, 5, 3))
    held = _between(kind.holding, rng)
    for finger in range(5):
        if finger == 0:
            angles[:, 0] = _between(kind.thumb, rng)
        elif finger in kind.fingers:
            angles[:, finger] = held
        else:
            angles[:, finger] = _between(kind.others, rng)
    opposition = rng.uniform(*kind.opposition, DRAWN)
    angles[:, 0, 0] = np.clip(angles[:, 0, 0], *hand.thumb_bends(opposition))
    turned, places = hand.joints(hand.rotations(angles, opposition, np.zeros((DRAWN, 5))))
    ends = [_place(hand, 0, False)] + [_place(hand, finger, kind.side) for finger in kind.fingers[1:]]
    points = np.stack([turned[:, j] @ point + places[:, j] for j, point, _ in ends])
    normals = np.stack([turned[:, j] @ normal for j, _, normal in ends])
    other, facing_back = points[1:].mean(0), normals[1:].mean(0)
    line = other - points[0]
    line /= np.linalg.norm(line, axis=1, keepdims=True)
    facing = np.minimum((normals[0] * line).sum(1), -(facing_back * line).sum(1))
    keep = facing > min(FACING, float(facing.max()) - 1e-6)
    return Postures(angles[keep], opposition[keep], points[0, keep], other[keep])


def _place(hand: Hand, finger: int, side: bool) -> tuple[int, np.ndarray, np.ndarray]:
    """A joint, and the place that it carries: point (m) and unit normal relative to the joint at rest."""
    middle, outer = MANO_FINGER_JOINTS[FINGERS[finger]][1:]
    joint = middle if side else outer
    normals = vertex_normals(hand.template, hand.model.f)
    toward = -hand.across if side else -hand.model.backs[finger]
    mine = np.flatnonzero((hand.model.weights.argmax(1) == joint) & (normals @ toward > 0.6))
    normal = normals[mine].mean(0)
    rest = hand.layer.rest_joints(torch.as_tensor(hand.betas, dtype=torch.float32)[None])[0].numpy()
    return joint, hand.template[mine].mean(0) - rest[joint], normal / np.linalg.norm(normal)


def _between(ranges, rng: np.random.Generator) -> np.ndarray:
    """Random radians [DRAWN, 3] between degrees."""
    low, high = np.radians(ranges).T
    return rng.uniform(low, high, (DRAWN, 3))
