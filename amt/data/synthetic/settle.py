"""The last correction of a grasp: hand and object come out of each other, and what touches keeps touching.

Each pass finds the deepest places both ways: the hand's vertices in the object, and places of the object's surface in the hand,
which tell what an edge or a thin wall does between vertices. The least motion of wrist and joints that leaves none deeper than
soft skin gives way is a quadratic programme of 21 unknowns (Lawson and Hanson, "Solving Least Squares Problems", 1974, ch. 23).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.skin import vertex_normals
from amt.data.synthetic.touch import nearest_on_mesh
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

TOUCH = 0.004  # m: nearer counts as contact when a grasp is judged
SKIN = 0.0011  # m: how far soft skin may sink in
ROUGH = 0.0002  # m: nearer to that is not worth another pass
AIM = 0.0008  # m: how deep what touches is meant to be
PASSES = 5
HOPELESS = 0.008  # m: from deeper than this a hand does not come out the right way
STUCK = 0.004  # m: the same after two passes, as with a wall between two sides of a finger
REACH = 0.005  # m: what is nearer is drawn on to AIM, and must not become too deep
WORST = 4  # places a part of the hand and a pass
ARM, LEVER = 0.06, 0.03  # m: what a radian of the wrist, and of a joint, counts
HOLD = 1.0  # weight of a part's contact beside the motion
YIELD = 10.0  # weight of a depth that remains
LONGEST, WIDEST_TURN = 0.008, 0.25  # m and rad in a pass


@dataclass
class Candidates:
    """C hands and how they are held; vertex = rotations @ v + places."""

    opened: np.ndarray  # float64 [C, 5, 3], rad
    bent: np.ndarray  # float64 [C, 5, 3], rad
    closed: np.ndarray  # float64 [C, 5, 3], rad: as far as the fingers may bend
    opposition: np.ndarray  # float64 [C], rad
    spread: np.ndarray  # float64 [C, 5], rad
    rotations: np.ndarray  # float64 [C, 3, 3]
    places: np.ndarray  # float64 [C, 3], m
    toward: np.ndarray  # float64 [C, 3], unit: the way of the open hand

    def __getitem__(self, which) -> Candidates:
        return Candidates(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


@dataclass
class Fitted:
    """One candidate after its correction."""

    found: Candidates
    vertices: np.ndarray  # float64 [V, 3], m, in the object's frame
    closed: torch.Tensor  # float32 [16, 3, 3]: rotations of the joints
    depth: float  # m: the larger of the hand's in the object and the object's in the hand


@dataclass
class _Places:
    """R places of the hand's surface, and where each has to go."""

    points: np.ndarray  # float64 [R, 3], m
    shares: np.ndarray  # float64 [R, 16]: skinning weights; all zero for what no joint moves
    out: np.ndarray  # float64 [R, 3], unit: the way out
    gap: np.ndarray  # float64 [R], m: negative where hand and object overlap


def fit(hand: Hand, distance: SignedDistance, found: Candidates) -> Fitted:
    """One candidate (C = 1) whose hand and object have come out of each other, as far as PASSES passes bring them."""
    opened = hand.posed(hand.rotations(found.opened, found.opposition, found.spread), hand.whole)
    part_of = hand.model.weights.argmax(1)
    for number in range(PASSES + 1):
        vertices, closed = held(hand, found)
        vertices = vertices[0].double().numpy()
        gap = distance.exact(vertices).astype(np.float64)
        back = _object_places(hand, distance, vertices)
        depth = max(0.0, -float(gap.min()), -float(back.gap.min(initial=0.0)))
        if number == PASSES or depth > (HOPELESS if number < 2 else STUCK):
            break
        before = moved(opened, found.rotations, found.places)[0].double().numpy()
        gap_before = distance(before).astype(np.float64)
        if number and depth <= SKIN + ROUGH and gap_before.min() > -SKIN - ROUGH:
            break
        near = _worst(gap, part_of)
        own = _Places(vertices[near], hand.model.weights[near], _out(distance, vertices[near]), gap[near])
        near = _worst(gap_before, part_of)
        still = np.zeros((len(near), hand.model.weights.shape[1]))
        free = _Places(before[near], still, _out(distance, before[near]), gap_before[near])
        found = _step(hand, found, closed, [own, back, free], own)
    return Fitted(found, vertices, closed[0], depth)


def _object_places(hand: Hand, distance: SignedDistance, vertices: np.ndarray) -> _Places:
    """The places of the hand that the object's surface is deepest behind, or will soon be."""
    outline, faces = distance.outline, hand.model.f
    low, high = vertices.min(0) - REACH, vertices.max(0) + REACH
    points = outline[((outline > low) & (outline < high)).all(1)]
    length, near = cKDTree(vertices, balanced_tree=False).query(points)
    behind = np.einsum("nc,nc->n", points - vertices[near], vertex_normals(vertices, faces)[near]) < 0
    points = points[behind & (length < 2 * HOPELESS) | (length < 2 * REACH)]
    nearest = nearest_on_mesh(points, vertices, faces)
    corners = faces[nearest.triangles]
    chosen = _worst(nearest.signed, hand.model.weights.argmax(1)[corners[:, 0]])
    corners, weights = corners[chosen], nearest.weights[chosen]
    normals = nearest.normals[chosen]
    return _Places(
        np.einsum("rw,rwc->rc", weights, vertices[corners]),
        np.einsum("rw,rwj->rj", weights, hand.model.weights[corners]),
        -normals / np.linalg.norm(normals, axis=1, keepdims=True),
        nearest.signed[chosen],
    )


def _worst(gap: np.ndarray, part_of: np.ndarray) -> np.ndarray:
    """Indices of the WORST deepest places of each part that are nearer than REACH."""
    near = np.flatnonzero(gap < REACH)
    near = near[np.lexsort((gap[near], part_of[near]))]
    parts = part_of[near]
    first = np.searchsorted(parts, parts)
    return near[np.arange(len(near)) - first < WORST]


def _step(hand: Hand, found: Candidates, closed: torch.Tensor, rows: list[_Places], own: _Places) -> Candidates:
    """The candidate after the least motion that brings all rows to SKIN at most."""
    turned, places = (a[0].astype(np.float64) for a in hand.joints(closed))
    rotation, place = found.rotations[0], found.places[0]
    joints = np.array([MANO_FINGER_JOINTS[finger] for finger in FINGERS])  # [5, 3]
    axes = np.einsum("ab,fkbc,fkc->fka", rotation, turned[joints], hand.flexion_axes)
    pivots = places[joints] @ rotation.T + place
    centre = rotation @ hand.template.mean(0) + place

    def effects(at: _Places) -> np.ndarray:
        """How a place moves along its way out, float64 [R, 21], by each unknown."""
        wrist = np.cross(at.points - centre, at.out) / ARM
        arms = at.points[:, None, None] - pivots
        beyond = np.cumsum(at.shares[:, joints][..., ::-1], -1)[..., ::-1]
        bends = beyond * np.einsum("rfka,ra->rfk", np.cross(axes, arms), at.out) / LEVER
        return np.concatenate([at.out, wrist, bends.reshape(-1, 15)], 1)

    matrix = np.concatenate([effects(at) for at in rows])
    least = np.concatenate([-at.gap - SKIN for at in rows])
    wanted = _least_motion(matrix, least, effects(own), -own.gap - AIM)
    shift, turn, bends = wanted[:3], wanted[3:6] / ARM, wanted[6:].reshape(5, 3) / LEVER
    slow = max(
        1.0, np.linalg.norm(shift) / LONGEST, np.abs(bends).max() / WIDEST_TURN, np.linalg.norm(turn) / WIDEST_TURN
    )
    shift, turn, bends = shift / slow, turn / slow, bends / slow
    rotated = axis_angle_to_matrix(torch.from_numpy(turn)).numpy()
    return Candidates(
        found.opened,
        hand.within(found.bent + bends, found.opposition),
        found.closed,
        found.opposition,
        found.spread,
        rotated[None] @ found.rotations,
        (rotated @ (place - centre) + centre + shift)[None],
        found.toward,
    )


def _least_motion(matrix: np.ndarray, least: np.ndarray, holding: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """x of least ||x||^2 + HOLD ||holding x - aims||^2 + YIELD^2 ||s||^2 with matrix x + s >= least."""
    from scipy.optimize import nnls  # half a second, and the program that starts the rendering processes needs none

    count = matrix.shape[1]
    lower = np.linalg.cholesky(np.eye(count) + HOLD * holding.T @ holding)
    inverse = np.linalg.inv(lower)
    start = inverse @ (HOLD * holding.T @ aims)
    rows = matrix @ inverse.T
    least = least - rows @ start
    slack = np.eye(len(rows)) / YIELD
    system = np.concatenate([rows.T, slack, least[None]])
    goal = np.zeros(len(system))
    goal[-1] = 1.0
    try:
        left = system @ nnls(system, goal)[0] - goal
    except RuntimeError:  # it does not converge: the hand stays, and is judged as it is
        return np.zeros(count)
    return inverse.T @ (start - left[:count] / left[-1])


def _out(distance: SignedDistance, points: np.ndarray) -> np.ndarray:
    """Unit normals [N, 3] of the object at points near its surface."""
    return distance.normals_at(torch.from_numpy(points.astype(np.float32))).double().numpy()


def held(hand: Hand, found: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
    """All vertices [C, V, 3] in the object's frame, and the joints' rotations [C, 16, 3, 3]."""
    closed = hand.rotations(found.bent, found.opposition, found.spread)
    return moved(hand.posed(closed, hand.whole), found.rotations, found.places), closed


def moved(vertices: torch.Tensor, rotations: np.ndarray, places: np.ndarray) -> torch.Tensor:
    """float32 [C, N, 3]: vertices [C, N, 3] rotated and moved."""
    rotations, places = (torch.from_numpy(a.astype(np.float32)) for a in (rotations, places))
    return vertices @ rotations.transpose(1, 2) + places[:, None]
