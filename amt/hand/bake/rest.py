"""Arms in MANO's rest pose: the wrist at one place, four fingers straight along -x, the palm down (-y), the thumb toward +z.

MakeHuman's rig puts the bases of the four fingers at their webs. The knuckles lie farther toward the wrist (Buryanov and Kotiuk,
"Proportions of hand segments", Int. J. Morphol. 28, 2010: a proximal phalanx of the index finger is 40 mm long, MakeHuman's
25 mm). The joints are moved there, and the weights follow. MakeHuman's little finger is 11 mm shorter than people's, and the last
phalanges of index, middle and ring finger are 12 to 28 % longer, nails and all: all bones are stretched to that table's shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from amt.hand.bake.body import FINGER_BONES, METACARPALS, Arms
from amt.hand.bake.skinning import dual_quaternions
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

WRIST = np.array((0.095, 0.006, 0.006))  # m: MANO's origin lies in the palm
CUT = 0.018  # m from the wrist toward the elbow: where the hand ends
KNUCKLE_SHIFT = 0.015  # m toward the wrist, on the average hand
THUMB_SHIFT = 0.014  # m, of the thumb's base, along its metacarpal
LITTLE_STRETCH = 1.191  # of the little finger beyond its web
# Shares of a finger from knuckle to skin, three bones and the soft tissue: means of 66 adults, Buryanov and Kotiuk.
PHALANGES = {
    "index": (0.486, 0.274, 0.240),
    "middle": (0.483, 0.286, 0.231),
    "ring": (0.469, 0.290, 0.241),
    "little": (0.464, 0.257, 0.279),
}
THUMB_RADIUS, THENAR = 0.012, 0.050  # m from the thumb's metacarpal: what follows it wholly, and not at all
BLEND = 0.012  # m to either side of a knuckle within which its weight rises


@dataclass(frozen=True)
class RestHands:
    """N hands with their forearms in MANO's rest pose, m."""

    vertices: np.ndarray  # float64 [N, V, 3]
    joints: np.ndarray  # float64 [N, 16, 3], MANO's order
    tips: np.ndarray  # float64 [N, 5, 3]: ends of the last bones, thumb first
    weights: np.ndarray  # float64 [V, 16]; a forearm's vertex belongs to the wrist
    forearm: np.ndarray  # float64 [V]: share of the forearm's bones


def rest_hands(arms: Arms) -> RestHands:
    """Brings every arm into the rest pose."""
    joints = _joints(arms)
    tips = np.stack([arms.tails[f"finger{i}-3.R"] for i in range(1, 6)], 1)
    axes = _axes(joints)  # rows: x, y, z

    def turn(points: np.ndarray) -> np.ndarray:  # [N, K, 3]
        return np.einsum("nab,nkb->nka", axes, points - joints[:, :1]) + WRIST

    vertices, joints, tips = turn(arms.vertices), turn(joints), turn(tips)
    weights, forearm = _weights(arms, vertices[0], joints[0], tips[0])
    for i in range(len(vertices)):
        vertices[i], joints[i], tips[i] = _straighten(vertices[i], joints[i], tips[i], weights)
    stretches = {finger: _stretch_of(vertices[0], joints[0], weights, finger) for finger in PHALANGES}
    for i in range(len(vertices)):
        for finger, stretch in stretches.items():
            vertices[i], joints[i], tips[i] = _stretched(vertices[i], joints[i], tips[i], weights, finger, stretch)
    return RestHands(vertices, joints, tips, weights, forearm)


def _joints(arms: Arms) -> np.ndarray:
    """MANO's 16 joints [N, 16, 3] in the body's frame."""
    joints = np.empty((len(arms.vertices), 16, 3))
    joints[:, 0] = arms.heads["wrist.R"]
    middle = np.linalg.norm(arms.heads["finger3-1.R"] - arms.heads["wrist.R"], axis=-1)
    size = (middle / middle[0])[:, None]
    for i, finger in enumerate(FINGERS):
        for k, joint in enumerate(MANO_FINGER_JOINTS[finger]):
            joints[:, joint] = arms.heads[FINGER_BONES[3 * i + k]]
        first, second = (joints[:, MANO_FINGER_JOINTS[finger][k]] for k in (0, 1))
        back = first - second if i == 0 else arms.heads[METACARPALS[i - 1]] - first
        back = back / np.linalg.norm(back, axis=-1, keepdims=True)
        joints[:, MANO_FINGER_JOINTS[finger][0]] = first + size * (THUMB_SHIFT if i == 0 else KNUCKLE_SHIFT) * back
    return joints


def _axes(joints: np.ndarray) -> np.ndarray:
    """Rows x (to the wrist), y (out of the back of the hand), z (to the thumb): [N, 3, 3]."""
    first = {finger: joints[:, numbers[0]] for finger, numbers in MANO_FINGER_JOINTS.items()}
    x = joints[:, 0] - first["middle"]
    y = np.cross(first["index"] - first["little"], x)
    x, y = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
    return np.stack((x, y, np.cross(x, y)), 1)


def _weights(arms: Arms, vertices: np.ndarray, joints: np.ndarray, tips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skinning weights [V, 16] and the forearm's share [V], from the average hand."""
    w = arms.weights
    total = sum(w.values())
    forearm = (w["lowerarm01.R"] + w["lowerarm02.R"]) / total
    weights = np.zeros((len(total), 16))
    for i, finger in enumerate(FINGERS):
        numbers = MANO_FINGER_JOINTS[finger]
        bones = [w[FINGER_BONES[3 * i + k]] / total for k in range(3)]
        if finger != "thumb":
            # The metacarpal's weights say which finger a place in the palm belongs to; they become the first
            # phalanx's beyond the knuckle.
            along = joints[numbers[1]] - joints[numbers[0]]
            place = (vertices - joints[numbers[0]]) @ (along / np.linalg.norm(along))
            beyond = smoothstep((place + BLEND) / (2 * BLEND))
            bones[0] = (bones[0] + w[METACARPALS[i - 1]] / total) * beyond
        for number, bone in zip(numbers, bones, strict=True):
            weights[:, number] = bone
    base, middle, last = MANO_FINGER_JOINTS["thumb"]
    weights[:, [base, middle, last]] = _thumb_weights(vertices, joints, tips[0], weights)
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    return weights, forearm


def _thumb_weights(vertices: np.ndarray, joints: np.ndarray, tip: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights [V, 3] of the thumb's bones by place.

    MakeHuman's first phalanx carries half of the web, and its metacarpal hardly anything: the web then cuts the thenar where the
    thumb opposes. Here the metacarpal carries the thenar along, fading out over palm and web.
    """
    base, middle, last = (joints[number] for number in MANO_FINGER_JOINTS["thumb"])
    numbers = list(MANO_FINGER_JOINTS["thumb"])
    bone, phalanx = middle - base, last - middle
    length = np.linalg.norm(bone)
    apart = _segment_distance(vertices, base, middle)
    others = weights.sum(1) - weights[:, numbers].sum(1)
    near = smoothstep((THENAR - apart) / (THENAR - THUMB_RADIUS)) * smoothstep(
        ((vertices - base) @ bone / length + 0.010) / 0.040
    )
    carried = np.maximum(near * (1 - others), 0)
    beyond = smoothstep(((vertices - middle) @ phalanx / np.linalg.norm(phalanx) + 0.010) / 0.020)
    across = np.minimum(_segment_distance(vertices, middle, last), _segment_distance(vertices, last, tip))
    own = weights[:, numbers].sum(1)
    bent = own * beyond * smoothstep((2 * THUMB_RADIUS - across) / THUMB_RADIUS)
    outer = weights[:, numbers[2]]
    total = np.maximum(carried, bent)
    return np.stack((total - bent, np.maximum(bent - outer, 0), np.minimum(outer, bent)), 1)


def _segment_distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[V], m, from points [V, 3] to the segment from start to end."""
    along = ((points - start) @ (end - start) / np.sum((end - start) ** 2)).clip(0, 1)
    return np.linalg.norm(points - start - along[:, None] * (end - start), axis=1)


def _straighten(vertices, joints, tips, weights):
    """One hand with straight fingers: each keeps its direction from knuckle to tip, seen from above."""
    rotations = np.tile(np.eye(3), (16, 1, 1))
    places = joints.copy()
    new_tips = tips.copy()
    for i, finger in enumerate(FINGERS):
        chain = [joints[number] for number in MANO_FINGER_JOINTS[finger]] + [tips[i]]
        first = 1 if finger == "thumb" else 0  # the thumb's metacarpal stays
        along = chain[3] - chain[first]
        if finger != "thumb":
            along[1] = 0.0
        along /= np.linalg.norm(along)
        place = chain[first]
        for k in range(first, 3):
            number, bone = MANO_FINGER_JOINTS[finger][k], chain[k + 1] - chain[k]
            length = np.linalg.norm(bone)
            rotations[number] = shortest_rotation(bone / length, along)
            places[number], place = place, place + length * along
        new_tips[i] = place
    return dual_quaternions(vertices, weights, joints, rotations, places), places, new_tips


class _Stretch(NamedTuple):
    """How a straight finger's bones are lengthened."""

    web: float  # share of the first bone that lies in the palm, and stays
    factors: np.ndarray  # float64 [3], of the bones


def _stretch_of(vertices, joints, weights, finger: str) -> _Stretch:
    """What gives the average hand's straight finger the lengths of its bones."""
    numbers = list(MANO_FINGER_JOINTS[finger])
    start = joints[numbers[0]]
    along = joints[numbers[2]] - start
    along /= np.linalg.norm(along)
    skin = ((vertices[weights[:, numbers[2]] > 0.5] - start) @ along).max()
    ends = np.array((KNUCKLE_SHIFT, *(joints[numbers[1:]] - start) @ along, skin))
    whole = KNUCKLE_SHIFT + (skin - KNUCKLE_SHIFT) * (LITTLE_STRETCH if finger == "little" else 1.0)
    wanted = np.array((KNUCKLE_SHIFT, *whole * np.cumsum(PHALANGES[finger])))
    return _Stretch(KNUCKLE_SHIFT / ends[1], np.diff(wanted) / np.diff(ends))


def _stretched(vertices, joints, tips, weights, finger: str, stretch: _Stretch):
    """One hand with the bones of a straight finger lengthened."""
    i, numbers = FINGERS.index(finger), list(MANO_FINGER_JOINTS[finger])
    start = joints[numbers[0]]
    along = (tips[i] - start) / np.linalg.norm(tips[i] - start)
    ends = np.array([(point - start) @ along for point in (*joints[numbers[1:]], tips[i])])
    bends = np.concatenate(([stretch.web * ends[0]], ends))  # the web, and where the bones end
    factors = stretch.factors
    places = np.concatenate((bends[:1], bends[0] + np.cumsum(np.diff(bends) * factors)))

    def moved(s: np.ndarray) -> np.ndarray:
        beyond = np.maximum(s - bends[-1], 0) * factors[-1] + places[-1] - bends[-1]
        return np.where(s > bends[-1], bends[-1] + beyond, np.interp(s, (0.0, *bends), (0.0, *places)).clip(s)) - s

    share = weights[:, numbers].sum(1)
    vertices = vertices + (share * moved((vertices - start) @ along))[:, None] * along
    joints, tips = joints.copy(), tips.copy()
    for point in (joints[numbers[1]], joints[numbers[2]], tips[i]):
        point += moved((point - start) @ along) * along
    return vertices, joints, tips


def shortest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] that takes the unit vector a to b by the shortest way; a and b are not opposite."""
    v, c = np.cross(a, b), a @ b
    k = np.array(((0, -v[2], v[1]), (v[2], 0, -v[0]), (-v[1], v[0], 0)))
    return np.eye(3) + k + k @ k / (1 + c)


def smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)
