"""Grasps: a hand is brought to an object and every finger closes until it touches.

A candidate is a wrist pose in front of a random point of the surface, palm toward it. The open hand comes in until it
almost touches; then each finger bends at all joints together until its first contact, then at the outer two, then at the
last one. Of many candidates, the best is the one whose thumb and fingers press against each other through the object.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.objects import Shape
from amt.data.synthetic.piercing import piercing_depths
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

TOUCH = 0.004  # m: nearer counts as contact when a grasp is judged
SKIN = 0.0012  # m: how far soft skin may sink in where a finger stops
LEVELS = 10
# Degrees of flexion of base, middle and outer joint: the open hand, and as far as each can close.
MOST_PIERCING = 0.002  # m, of the hand by itself: thumb and fingers find each other
OPEN = np.radians([[-28, -4, 2], [2, 10, 6], [2, 10, 6], [2, 10, 6], [2, 10, 6]])
CLOSED = np.radians([[40, 55, 70], [82, 98, 66], [84, 100, 66], [84, 100, 66], [84, 98, 66]])


@dataclass(frozen=True)
class Grasp:
    """A hand holding an object, in the object's frame."""

    fingers: np.ndarray  # float64 [45], axis-angle of MANO's 15 joints
    open_fingers: np.ndarray  # float64 [45]: the same hand before it closed
    rotation: np.ndarray  # float64 [3, 3]: the wrist's rotation
    translation: np.ndarray  # float64 [3], m: MANO's (added after the rotation about J0)
    retreat: np.ndarray  # float64 [3], unit: the way back out of the object
    arm: np.ndarray  # float64 [3], unit: from the wrist toward the elbow
    palm: np.ndarray  # float64 [3], unit: out of the palm
    score: float
    good: bool  # False: no candidate met every demand, this one came nearest


@dataclass
class Hand:
    """A person's hand: the layer, betas, and the anatomy that closing needs, read off the rest pose."""

    model: HandModel
    betas: np.ndarray  # float [10]
    layer: ManoLayer = field(init=False)

    def __post_init__(self):
        self.layer = ManoLayer(self.model)
        self._betas = torch.as_tensor(self.betas, dtype=torch.float32)[None]
        mesh = self.layer(torch.zeros(1, 48), self._betas, torch.zeros(1, 3))
        self.template, self.rest = (x[0].double().numpy() for x in mesh)
        self.root = self.rest[0]
        wrist, index, middle, little = self.rest[[0, 5, 9, 17]]
        normal = np.cross(index - wrist, little - wrist)
        self.palm = _unit(normal if self.model.side == "right" else -normal)
        self.along = _unit(middle - wrist)
        self.across = _unit(little - index - self.palm * ((little - index) @ self.palm))
        length = (self.template - wrist) @ self.along
        self.wrist_end = np.flatnonzero(length < length.min() + 0.006)  # the vertices where a forearm goes on
        joint_of = self.model.weights.argmax(1)
        self.finger_of = np.full(len(self.template), -1)
        for number, finger in enumerate(FINGERS):
            self.finger_of[np.isin(joint_of, MANO_FINGER_JOINTS[finger])] = number
        self.flexion = np.stack([self._flexion_axis(number) for number in range(5)])

    def _flexion_axis(self, finger: int) -> np.ndarray:
        """Unit axis, rest frame, about which a positive rotation bends a finger toward the palm."""
        base, tip = self.rest[1 + 4 * finger], self.rest[4 + 4 * finger]
        toward = self.palm if finger else 0.45 * self.palm + 0.9 * self.across
        return _unit(np.cross(_unit(tip - base), toward))

    def rotations(self, angles: np.ndarray, opposition: np.ndarray, spread: np.ndarray) -> torch.Tensor:
        """Joint rotations float32 [B, 16, 3, 3] (the first is the identity) of flexion angles.

        Args:
            angles: [B, 5, 3], rad: each finger's base, middle and outer joint.
            opposition: [B], rad: how far the thumb's base is rotated under the palm.
            spread: [B, 5], rad: sideways rotation of the fingers' bases.
        """
        count = len(angles)
        joints = np.zeros((count, 16, 3))
        base = np.zeros((count, 16, 3))
        for number, finger in enumerate(FINGERS):
            for k, joint in enumerate(MANO_FINGER_JOINTS[finger]):
                joints[:, joint] = angles[:, number, k, None] * self.flexion[number]
            first = MANO_FINGER_JOINTS[finger][0]
            if number == 0:
                # Rotated about the hand's length, the thumb's tip moves from beside the palm to in front of it.
                axis = self.along * np.sign(np.cross(self.along, -self.across) @ self.palm)
                base[:, first] = opposition[:, None] * axis
            else:
                base[:, first] = spread[:, number, None] * self.palm
        rotation = axis_angle_to_matrix(torch.from_numpy(base.astype(np.float32)))
        return rotation @ axis_angle_to_matrix(torch.from_numpy(joints.astype(np.float32)))

    def vertices(self, rotations: torch.Tensor) -> np.ndarray:
        """float32 [B, V, 3], m, of joint rotations [B, 16, 3, 3], at zero translation."""
        count = len(rotations)
        with torch.no_grad():
            return self.layer(rotations, self._betas.expand(count, -1), torch.zeros(count, 3)).vertices.numpy()


def find_grasp(hand: Hand, shape: Shape, distance: SignedDistance, rng: np.random.Generator, rounds: int = 6) -> Grasp:
    """The best of several rounds of candidates; stops at the first round that holds a good one."""
    best = None
    for _ in range(rounds):
        candidates = sorted(_candidates(hand, shape, distance, rng), key=lambda g: (g.good, g.score), reverse=True)
        for grasp in candidates:  # the best first: most of the others need not be looked at
            if best is not None and (grasp.good, grasp.score) <= (best.good, best.score):
                break
            if not _pierces_itself(hand, grasp):
                best = grasp
                break
        if best is not None and best.good:
            break
    return candidates[0] if best is None else best


def _pierces_itself(hand: Hand, grasp: Grasp) -> bool:
    rotations = axis_angle_to_matrix(torch.from_numpy(grasp.fingers.reshape(1, 15, 3)).float())
    rotations = torch.cat((torch.eye(3).expand(1, 1, 3, 3), rotations), dim=1)
    vertices = hand.vertices(rotations)[0].astype(np.float64)
    return piercing_depths(vertices, hand.model.f).max(initial=0) > MOST_PIERCING


def _candidates(
    hand: Hand, shape: Shape, distance: SignedDistance, rng: np.random.Generator, count: int = 14
) -> list[Grasp]:
    opposition = rng.uniform(0.4, 1.45, count)
    spread = rng.uniform(-0.10, 0.10, (count, 5)) * np.array([0, 1, 0.3, 0.6, 1])
    angles = OPEN + rng.uniform(0, 1, (count, 1, 1)) * 0.22 * (CLOSED - OPEN)
    opened = hand.rotations(angles, opposition, spread)
    shapes = hand.vertices(opened)

    rotations, places = _wrist_poses(hand, shape, distance, shapes, rng)
    bent, limits = angles.copy(), np.zeros((count, 5), bool)
    for stage in range(3):
        bent, touched = _close(hand, distance, rotations, places, bent, opposition, spread, stage, limits)
        if stage == 0:
            limits = touched
            # A finger that reaches nothing stays loosely bent.
            loose = angles + rng.uniform(0.15, 0.45, (count, 5, 1)) * (CLOSED - angles)
            bent = np.where(limits[..., None], bent, loose)
    closed = hand.rotations(bent, opposition, spread)
    found = []
    vertices = np.einsum("bij,bvj->bvi", rotations, hand.vertices(closed)) + places[:, None]
    gaps = distance(vertices)
    for k in range(count):
        score, good = _judge(hand, distance, vertices[k], gaps[k])
        root = hand.root
        found.append(
            Grasp(
                fingers=_fingers(closed[k]),
                open_fingers=_fingers(opened[k]),
                rotation=rotations[k],
                translation=rotations[k] @ root + places[k] - root,
                retreat=_unit(-rotations[k] @ (hand.palm + 0.35 * hand.along)),
                arm=-rotations[k] @ hand.along,
                palm=rotations[k] @ hand.palm,
                score=score,
                good=good,
            )
        )
    return found


def _wrist_poses(hand: Hand, shape: Shape, distance: SignedDistance, shapes: np.ndarray, rng: np.random.Generator):
    """Rotations [C, 3, 3] and places [C, 3] (vertex = rotation @ v + place) that bring open hands up to the surface."""
    count = len(shapes)
    points, normals = shape.surface_points(count, seed=int(rng.integers(1 << 31)))
    long = np.eye(3)[np.argmax(shape.extent)]
    # Between the palm coming down on the surface and the hand's fork, thumb and fingers, being pushed over it.
    fork = rng.uniform(0, 1, count)
    palm_centre = hand.rest[0] + 0.75 * (hand.rest[[5, 9, 13, 17]].mean(0) - hand.rest[0])
    thumb, fingers = (shapes[:, np.isin(hand.finger_of, f)].mean(1) for f in ([0], [1, 2]))
    centre = palm_centre + fork[:, None] * ((thumb + fingers) / 2 - palm_centre)
    tilt = fork * rng.uniform(0.2, 1.2, count)
    rotations, outward = np.empty((count, 3, 3)), np.empty((count, 3))
    flat = _unit(hand.along - hand.palm * (hand.along @ hand.palm))
    for k in range(count):
        toward = -_unit(normals[k] + rng.normal(0, 0.18, 3))
        # Fingers like to lie across the object's length.
        finger = np.cross(long, toward) * rng.choice([-1, 1]) + rng.normal(0, 0.4, 3)
        finger = _unit(finger - toward * (finger @ toward))
        approach = np.cos(tilt[k]) * hand.palm + np.sin(tilt[k]) * flat
        length = np.cos(tilt[k]) * flat - np.sin(tilt[k]) * hand.palm
        own = np.stack([approach, length, np.cross(approach, length)], 1)
        rotations[k] = np.stack([toward, finger, np.cross(toward, finger)], 1) @ own.T
        outward[k] = -toward
    start = points - np.einsum("bij,bj->bi", rotations, centre)
    rotated = np.einsum("bij,bvj->bvi", rotations, shapes)[:, ::2]
    # From far to near: the last step at which nothing sinks in.
    steps = np.linspace(0.14, -0.06, 34)
    clear = np.stack([distance(rotated + (start + s * outward)[:, None]).min(1) for s in steps], 1) > 0.001
    last = np.where(clear.all(1), len(steps), np.argmin(clear, 1)) - 1
    offset = steps[np.clip(last, 0, None)] + rng.choice([0.0, 0.0, 0.01, 0.025], count)
    return rotations, start + offset[:, None] * outward


def _close(hand, distance, rotations, places, angles, opposition, spread, stage, moving):
    """Bends the joints from ``stage`` outward of the fingers until each first touches.

    Returns the angles [C, 5, 3] and whether each finger touched [C, 5]. At stage 0 all fingers move, later only
    those that ``moving`` names.
    """
    count = len(angles)
    levels = np.linspace(0, 1, LEVELS)
    goal = angles.copy()
    goal[..., stage:] = np.maximum(CLOSED, angles)[..., stage:]
    if stage:
        goal = np.where(moving[..., None], goal, angles)
    path = angles[:, None] + levels[None, :, None, None] * (goal - angles)[:, None]
    flat = path.reshape(-1, 5, 3)
    repeat = np.repeat(np.arange(count), LEVELS)
    posed = hand.vertices(hand.rotations(flat, opposition[repeat], spread[repeat])).reshape(count, LEVELS, -1, 3)
    end = np.empty((count, 5))
    touched = np.zeros((count, 5), bool)
    for finger in range(5):
        mine = np.flatnonzero(hand.finger_of == finger)
        moved = np.einsum("bij,blvj->blvi", rotations, posed[:, :, mine]) + places[:, None, None]
        gap = distance(moved).min(2) + SKIN  # [C, L]
        inside = gap < 0
        touched[:, finger] = inside.any(1)
        first = np.where(touched[:, finger], inside.argmax(1), LEVELS - 1)
        before = np.clip(first - 1, 0, None)
        rows = np.arange(count)
        a, b = gap[rows, before], gap[rows, first]
        share = np.where(touched[:, finger] & (first > 0), a / np.maximum(a - b, 1e-6), 1.0)
        end[:, finger] = np.where(first > 0, levels[before] + share * (levels[first] - levels[before]), 0.0)
    return angles + end[..., None] * (goal - angles), touched


def _judge(hand: Hand, distance: SignedDistance, vertices: np.ndarray, gap: np.ndarray) -> tuple[float, bool]:
    """How well a posed hand holds the object, and whether that is good enough."""
    touch = gap < TOUCH
    thumb, others = touch & (hand.finger_of == 0), touch & (hand.finger_of > 0)
    fingers = len(np.unique(hand.finger_of[others]))
    depth = -float(gap.min())
    if not thumb.any() or not others.any():
        return -1.0 + 0.01 * touch.sum() - 50 * max(0.0, depth - 0.003), False
    against = float(_mean_normal(distance, vertices[thumb]) @ _mean_normal(distance, vertices[others]))
    score = -against + 0.12 * fingers + 0.004 * min(touch.sum(), 150) - 60 * max(0.0, depth - 0.003)
    pinched = against < -0.35 and fingers >= 2 and thumb.sum() >= 5 and others.sum() >= 10
    # What is too wide to reach around is held by many contacts on its near side and flanks.
    embraced = against < 0.1 and fingers == 4 and touch.sum() >= 60
    return score, (pinched or embraced) and depth < 0.006


def _mean_normal(distance: SignedDistance, points: np.ndarray) -> np.ndarray:
    return _unit(distance.normal(points.astype(float)).mean(0))


def _fingers(rotations: torch.Tensor) -> np.ndarray:
    return matrix_to_axis_angle(rotations[1:].double()).reshape(45).numpy()


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
