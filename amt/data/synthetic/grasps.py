"""Grasps: a hand is brought to an object and every finger closes until it touches.

A candidate is a wrist pose in front of a random point of the surface, palm toward it. The open hand comes in until it
almost touches; then each finger bends at all joints together until its first contact, then at the outer two, then at the
last one. A few hundred of the hand's vertices stand for it. The candidate whose thumb and fingers press most against each
other through the object is then corrected until neither is deeper in the other than soft skin gives way (settle.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from amt.data.synthetic.distance import MARGIN, SignedDistance
from amt.data.synthetic.grasp_types import POWER, TYPES, GraspType, Postures, choose_type, postures
from amt.data.synthetic.objects import Shape
from amt.data.synthetic.person_hand import Hand, Part
from amt.data.synthetic.piercing import piercing_depths
from amt.data.synthetic.rests import Rests
from amt.data.synthetic.settle import SKIN, TOUCH, Candidates, fit, held, moved
from amt.hand.rotations import matrix_to_axis_angle

MOST_DEPTH = 0.003  # m, of the hand in the object, and of the object in the hand
MOST_PIERCING = 0.002  # m, of the hand by itself: thumb and fingers find each other
CANDIDATES = 24  # a round
TRIED = 5  # of a round, corrected with all vertices until one is good
STEPS, THIN_STEPS, EAGER = 6, 10, 1.5  # of bending until a contact
CLOSE = 0.0006  # m: nearer to it is not worth another step
CLEAR = 0.001  # m of air that the open hand leaves
WIDEST = 0.075  # m between thumb and fingers of a precision grasp
FAR, NEAR = 0.14, -0.06  # m from the first point of the surface: where the open hand comes from, and how far it may go
# Degrees of flexion of base, middle and outer joint: the open hand, and as far as each can close.
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
    toward: np.ndarray  # float64 [3], unit: the open hand's way into the grasp, free over the last :data:`FAR`
    arm: np.ndarray  # float64 [3], unit: from the wrist toward the elbow
    palm: np.ndarray  # float64 [3], unit: out of the palm
    score: float
    kind: str  # a name of grasp_types.TYPES
    good: bool  # False: no candidate met every demand, this one came nearest


def find_grasp(
    hand: Hand,
    shape: Shape,
    distance: SignedDistance,
    rng: np.random.Generator,
    kind: GraspType | None = None,
    rounds: int = 8,
    resting: Rests | None = None,
) -> Grasp:
    """The first good one of several rounds of candidates, the best of each round first.

    Args:
        kind: the type of grasp; None for one that suits the object, or a power grasp where no such one is found.
        resting: how the object may lie on a table; then hand and arm keep above the table in one of these ways, open or closed.

    Where no grasp is good, the best of all is returned.
    """
    others: list[tuple[bool, float, Candidates, GraspType]] = []
    kinds = [kind] if kind is not None else [choose_type(shape, rng), POWER]
    if resting is not None and kind is None:
        kinds += TYPES.values()  # a thin thing that lies is not taken by the whole hand
    for tried in dict.fromkeys(kinds):
        ways = None if tried is POWER else postures(hand, tried, rng)
        for _ in range(rounds if tried in (POWER, kind) else 3):
            found = (
                _power(hand, shape, distance, rng)
                if ways is None
                else _precise(hand, shape, distance, tried, ways, resting, rng)
            )
            vertices = held(hand, found)[0]
            scores, holds, _ = _judge(hand, distance, vertices, tried)
            if resting is not None:
                holds = holds & _above_table(hand, found, vertices.numpy(), resting)
            order = np.lexsort((-scores, ~holds))
            # Coming out of the object's inside, a hand only loses contacts: what holds nothing now is not settled.
            for k in order[: min(TRIED, int(holds.sum()))]:
                settled = _settled(hand, distance, found[k : k + 1], tried)
                if resting is not None and not _above_table(hand, settled.found, settled.vertices[None], resting)[0]:
                    settled.score -= 5
                elif settled.good and not _pierces_itself(hand, settled):
                    return _grasp(hand, settled, tried)
                others.append((False, settled.score, settled.found, tried))
            if tried in (POWER, kind) and not holds.any():
                others.append((True, float(scores[order[0]]) - 10, found[order[:1]], tried))
    for _, _, found, tried in sorted(others, key=lambda other: other[1], reverse=True):
        settled = _settled(hand, distance, found, tried)
        if not _pierces_itself(hand, settled):
            break
    return _grasp(hand, settled, tried)


def _above_table(hand: Hand, found: Candidates, vertices: np.ndarray, resting: Rests) -> np.ndarray:
    """bool [C]: whether a table under the object, in one of its rests, leaves room for hands, closed [C, V, 3] and open."""
    opened = hand.rotations(found.opened, found.opposition, found.spread)
    opened = moved(hand.posed(opened, hand.whole), found.rotations, found.places).numpy()
    return resting.allow([vertices, opened], -found.rotations @ hand.along).any(1)


def _pierces_itself(hand: Hand, settled: _Settled) -> bool:
    return piercing_depths(settled.vertices.astype(np.float64), hand.model.f).max(initial=0) > MOST_PIERCING


def _power(hand: Hand, shape: Shape, distance: SignedDistance, rng: np.random.Generator) -> Candidates:
    """Hands whose fingers all close."""
    count = CANDIDATES
    opposition = rng.uniform(0.4, 1.45, count)
    spread = rng.uniform(-0.10, 0.10, (count, 5)) * np.array([0, 1, 0.3, 0.6, 1])
    opened = OPEN + rng.uniform(0, 1, (count, 1, 1)) * 0.22 * (CLOSED - OPEN)
    opened, closed = (hand.within(np.broadcast_to(a, opened.shape), opposition) for a in (opened, CLOSED))
    shapes = hand.posed(hand.rotations(opened, opposition, spread), _part(hand, distance))
    rotations, places, toward = _wrist_poses(hand, shape, distance, shapes, rng)
    found = Candidates(opened, opened.copy(), closed, opposition, spread, rotations, places, toward)
    limits = np.ones((count, 5), bool)
    for stage in range(3):
        found.bent, touched = _close(hand, distance, found, stage, limits)
        if stage == 0:
            # A finger that reaches nothing stays loosely bent.
            loose = opened + rng.uniform(0.15, 0.45, (count, 5, 1)) * (CLOSED - opened)
            found.bent = np.where(touched[..., None], found.bent, loose)
            holds = touched[:, 0] & (touched[:, 1:].sum(1) >= 2)
            keep = holds if holds.any() else slice(0, 1)
            found, limits = found[keep], touched[keep]
    return found


def _precise(
    hand: Hand,
    shape: Shape,
    distance: SignedDistance,
    kind: GraspType,
    ways: Postures,
    resting: Rests | None,
    rng: np.random.Generator,
) -> Candidates:
    """Hands that take two opposite places of the surface between the thumb and what it presses against."""
    near, normals, far = _opposite_places(shape, rng)
    count, thickness = len(near), np.linalg.norm(far - near, axis=1)
    width = np.linalg.norm(ways.against - ways.thumb, axis=1)
    misfit = np.abs(width - thickness[:, None]) + rng.uniform(0, 0.004, (count, len(width)))
    way = misfit.argmin(1)
    line = _units(ways.against[way] - ways.thumb[way])
    middle = (ways.against[way] + ways.thumb[way]) / 2
    reach = middle - hand.root
    reach = _units(reach - line * (reach * line).sum(1, keepdims=True))
    across = rng.normal(0, 1, (count, 3))
    if resting is not None:  # rather from above
        across -= rng.uniform(0, 4, (count, 1)) * resting.up[rng.integers(len(resting.up), size=count)]
    toward = _units(across - normals * (across * normals).sum(1, keepdims=True))
    rotations = _axes(-normals, toward) @ _axes(line, reach).transpose(0, 2, 1)

    holds = np.isin(np.arange(5), kind.fingers)
    bend = holds[:, None] * np.radians([[16, 6, 2]])
    angles = ways.angles[way]
    opened, closed = np.maximum(angles - bend, OPEN), np.minimum(angles + 1.4 * bend, np.maximum(CLOSED, angles))
    opened, closed = (hand.within(a, ways.opposition[way]) for a in (opened, closed))
    spread = np.zeros((count, 5))
    shapes = hand.posed(hand.rotations(opened, ways.opposition[way], spread), _part(hand, distance))
    places = (near + far) / 2 - np.einsum("bij,bj->bi", rotations, middle)
    travelled = _advance(distance, moved(shapes, rotations, places - FAR * toward), toward)
    places = places + (np.minimum(travelled, FAR) - FAR)[:, None] * toward
    found = Candidates(opened, opened.copy(), closed, ways.opposition[way], spread, rotations, places, toward)
    found.bent, touched = _close(hand, distance, found, 0, np.broadcast_to(holds, (count, 5)))
    keep = touched[:, holds].all(1)
    return found[keep if keep.any() else slice(0, 1)]


def _part(hand: Hand, distance: SignedDistance) -> Part:
    """The vertices that stand for a hand."""
    return hand.fine if distance.thin else hand.sampled


def _opposite_places(shape: Shape, rng: np.random.Generator):
    """Places of the surface, normals there, and the places on the object's other side, each float64 [C, 3]; C is CANDIDATES."""
    points, normals = _surface(shape)
    chosen = rng.choice(len(points), 4 * CANDIDATES, replace=False)
    p, n = points.astype(np.float32), normals.astype(np.float32)
    own, out, square = p[chosen], n[chosen], (p * p).sum(1)
    depth = (out * own).sum(1)[:, None] - out @ p.T  # of each point below the chosen one's tangent plane
    beside = square - 2 * own @ p.T + square[chosen, None] - depth * depth  # m2, from the chosen one's normal
    depth = np.where((out @ n.T < -0.7) & (beside < 0.004**2) & (depth > 0.001), depth, np.inf)
    order = np.argsort(np.where(depth.min(1) < WIDEST, rng.random(len(chosen)), 1 + depth.min(1)))[:CANDIDATES]
    depth = np.minimum(depth.min(1)[order], 1.0)
    near, out = points[chosen[order]], normals[chosen[order]]
    return near, out, near - depth[:, None] * out


def _wrist_poses(hand: Hand, shape: Shape, distance: SignedDistance, shapes: torch.Tensor, rng: np.random.Generator):
    """Rotations [C, 3, 3] and places [C, 3] (vertex = rotation @ v + place) that bring open hands up to the surface; their way.

    Args:
        shapes: float32 [C, N, 3], m: the open hands' sampled vertices.
    """
    count = len(shapes)
    points, normals = _surface(shape)
    chosen = rng.integers(len(points), size=count)
    points, normals = points[chosen], normals[chosen]
    long = np.eye(3)[np.argmax(shape.extent)]
    # Between the palm coming down on the surface and the hand's fork, thumb and fingers, being pushed over it.
    fork = rng.uniform(0, 1, count)
    palm_centre = hand.rest[0] + 0.75 * (hand.rest[[5, 9, 13, 17]].mean(0) - hand.rest[0])
    finger_of = _part(hand, distance).finger_of.numpy()
    thumb, fingers = (shapes[:, np.isin(finger_of, f)].mean(1).numpy() for f in ([0], [1, 2]))
    centre = palm_centre + fork[:, None] * ((thumb + fingers) / 2 - palm_centre)
    tilt = fork * rng.uniform(0.2, 1.2, count)
    toward = -_units(normals + rng.normal(0, 0.18, (count, 3)))
    # Fingers like to lie across the object's length.
    finger = np.cross(long, toward) * rng.choice([-1, 1], count)[:, None] + rng.normal(0, 0.4, (count, 3))
    finger = _units(finger - toward * (finger * toward).sum(1, keepdims=True))
    flat = _unit(hand.along - hand.palm * (hand.along @ hand.palm))
    c, s = np.cos(tilt)[:, None], np.sin(tilt)[:, None]
    own = _axes(c * hand.palm + s * flat, c * flat - s * hand.palm)
    rotations = _axes(toward, finger) @ own.transpose(0, 2, 1)
    start = points - np.einsum("bij,bj->bi", rotations, centre)
    travelled = _advance(distance, moved(shapes, rotations, start - FAR * toward), toward)
    offset = travelled - rng.choice([0.0, 0.0, 0.01, 0.025], count)
    return rotations, start + (offset - FAR)[:, None] * toward, toward


def _advance(distance: SignedDistance, vertices: torch.Tensor, toward: np.ndarray) -> np.ndarray:
    """How far [C], m, hands [C, N, 3] can go in unit directions [C, 3] until they almost touch.

    The distance to the object is a step that nothing can be hit in (sphere tracing). A hand that begins in the object, as on the
    far side of a bowl, is sent away.
    """
    direction = torch.from_numpy(toward.astype(np.float32))[:, None]
    gone, going = torch.zeros(len(vertices)), torch.arange(len(vertices))
    for number in range(12):
        gap = distance.near(vertices[going] + gone[going, None, None] * direction[going]).amin(1)
        if number == 0:
            begins = gap > CLEAR
            gone[~begins], gap, going = -1.0, gap[begins], going[begins]
        # The grid is MARGIN wider than the object: farther away, that is the only step known to be free.
        gone[going] += (gap - CLEAR).clamp(0, MARGIN)
        going = going[(gap > 1.5 * CLEAR) & (gone[going] < FAR - NEAR)]
        if not len(going):
            break
    return gone.clamp(max=FAR - NEAR).double().numpy()


def _close(hand: Hand, distance: SignedDistance, found: Candidates, stage: int, moving: np.ndarray):
    """Bends the joints from ``stage`` outward of the fingers until a place that they move sinks in by SKIN.

    The distance to the object is a way on which a place can hit nothing (sphere tracing): no finger passes through a thin wall.
    Before a solid object the fingers go EAGER times as far, and back where they sink in.
    Returns the angles [C, 5, 3] and whether each finger touched [C, 5]. Only the fingers that ``moving`` [C, 5] names move.
    """
    goal = found.bent.copy()
    goal[..., stage:] = np.maximum(found.closed, found.bent)[..., stage:]
    goal = np.where(moving[..., None], goal, found.bent)
    change = goal - found.bent
    part = hand.fine_fingers if distance.thin else hand.sampled_fingers
    share, nearest, going = np.zeros(moving.shape), np.full(moving.shape, np.inf), np.arange(len(moving))
    mine = [part.finger_of == k for k in range(5)]
    angles = torch.from_numpy(change.astype(np.float32))
    lengths = [angles[:, k] @ part.reach[own].T for k, own in enumerate(mine)]  # m of the whole way, at most
    steps, eager = (THIN_STEPS, 1.0) if distance.thin else (STEPS, EAGER)
    for _ in range(steps):
        now = found[going]
        bent = now.bent + share[going, :, None] * change[going]
        posed = hand.posed(hand.rotations(bent, now.opposition, now.spread), part)
        gap = distance.near(moved(posed, now.rotations, now.places)) + SKIN
        for k, own in enumerate(mine):
            length, left = lengths[k][going], gap[:, own]
            nearest[going, k] = torch.where(length > 1e-6, left, torch.inf).amin(1).numpy()
            share[going, k] += eager * (left / length.clamp(min=1e-9)).amin(1).clamp(-1, 1).numpy()
        share = np.clip(share, 0, 1)
        going = going[((share < 1) & (np.abs(nearest) > CLOSE) & moving)[going].any(1)]
        if not len(going):
            break
    return found.bent + share[..., None] * change, nearest < SKIN + CLEAR


@dataclass
class _Settled:
    """One candidate whose fingers and palm have come out of the object, and how good it is."""

    found: Candidates
    vertices: np.ndarray  # float64 [V, 3], m, in the object's frame
    closed: torch.Tensor  # float32 [16, 3, 3]: rotations of the joints
    opened: torch.Tensor  # float32 [16, 3, 3]
    retreat: np.ndarray  # float64 [3], unit
    score: float
    good: bool


def _settled(hand: Hand, distance: SignedDistance, found: Candidates, kind: GraspType) -> _Settled:
    """One candidate after :func:`fit`."""
    fitted = fit(hand, distance, found)
    score, holds, _ = _judge(hand, distance, torch.from_numpy(fitted.vertices[None]).float(), kind)
    good, over = bool(holds[0] and fitted.depth < MOST_DEPTH), max(0.0, fitted.depth - MOST_DEPTH)
    opened = hand.rotations(found.opened, found.opposition, found.spread)
    retreat = _unit(-fitted.found.rotations[0] @ (hand.palm + 0.35 * hand.along))
    return _Settled(
        fitted.found, fitted.vertices, fitted.closed, opened[0], retreat, float(score[0]) - 500 * over, good
    )


def _grasp(hand: Hand, settled: _Settled, kind: GraspType) -> Grasp:
    found, root = settled.found, hand.root
    rotation = found.rotations[0]
    return Grasp(
        fingers=_fingers(settled.closed),
        open_fingers=_fingers(settled.opened),
        rotation=rotation,
        translation=rotation @ root + found.places[0] - root,
        retreat=settled.retreat,
        toward=found.toward[0],
        arm=-rotation @ hand.along,
        palm=rotation @ hand.palm,
        score=settled.score,
        kind=kind.name,
        good=settled.good,
    )


def _judge(
    hand: Hand, distance: SignedDistance, vertices: torch.Tensor, kind: GraspType
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How well posed hands [C, V, 3] hold the object, whether their contacts do for a type of grasp, and their depth in it, m."""
    gap = distance.near(vertices)
    touch = gap < TOUCH
    normals = torch.zeros_like(vertices)
    normals[touch] = distance.normals_at(vertices[touch])
    touched = touch.numpy()
    on = np.stack([touched & (hand.finger_of == k) for k in range(-1, 5)], 1)  # [C, 6, V]: palm, then fingers
    sums = (torch.from_numpy(on).float() @ normals).numpy()
    count, tips = on.sum(-1)[:, 1:], (on & hand.outer).sum(-1)[:, 1:]  # [C, 5]
    opposing = [k for k in kind.fingers if k]
    against = (_units(sums[:, 1]) * _units(sums[:, [k + 1 for k in opposing]].sum(1))).sum(1)
    depth = -gap.amin(1).numpy()
    sunk, contacts = np.clip(depth - 0.003, 0, None), touched.sum(1)
    if kind is not POWER:
        idle = contacts - count[:, kind.fingers].sum(1)  # what should not touch
        if kind.side:
            idle = on.sum(-1)[:, 0]  # curled fingers may
        held = np.minimum(tips[:, 0], (count if kind.side else tips)[:, opposing].min(1))
        holds = (held >= 3) & (idle == 0) & (against < -0.5)
        return -against + 0.02 * np.minimum(held, 20) - 0.02 * idle - 60 * sunk, holds, depth
    fingers, pads = (count[:, 1:] > 0).sum(1), count[:, 1:].sum(1)
    score = -against + 0.12 * fingers + 0.004 * np.minimum(contacts, 150) - 60 * sunk
    pinched = (against < -0.35) & (fingers >= 2) & (count[:, 0] >= 5) & (pads >= 10)
    # What is too wide to reach around is held by many contacts on its near side and flanks.
    embraced = (against < 0.1) & (fingers == 4) & (contacts >= 60)
    none = (count[:, 0] == 0) | (pads == 0)
    score = np.where(none, -1.0 + 0.01 * contacts - 50 * sunk, score)
    inner = contacts - tips.sum(1)  # contacts of the palm and of phalanges before the last
    return score, (pinched | embraced) & ~none & (inner >= 5), depth


@cache
def _surface(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    return shape.surface_points(4096)


def _axes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[C, 3, 3]: two orthogonal unit vectors [C, 3] and their cross product as columns."""
    return np.stack([first, second, np.cross(first, second)], -1)


def _fingers(rotations: torch.Tensor) -> np.ndarray:
    return matrix_to_axis_angle(rotations[1:].double()).reshape(45).numpy()


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
