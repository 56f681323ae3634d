"""Makes ``assets/stand_in.npz``, the procedural right hand: ``python -m amt.hand.make_stand_in``.

Run it only to change the hand; users need the asset alone. Needs scikit-image, scipy, trimesh and fast-simplification.
Skinning weights, shape directions and correctives are functions of a vertex's place along the bones, in the design
coordinates of ``stand_in_surface.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS, TIP_VERTICES
from amt.hand.stand_in_surface import (
    BONES,
    RADII,
    WRIST,
    finger_distance,
    finger_frame,
    gradient,
    make_mesh,
    neighbour_average,
    smoothstep,
)

ORIGIN = np.array((95.0, -6.0, -6.0))  # MANO's origin lies in the palm, so J0 is not zero


def chain_place(p, finger):
    """How far points lie past the three joints of a finger, along its bones: three times [N], mm."""
    points = BONES[finger]
    ends = [points[i + 1] - points[i] for i in range(3)]
    return [(p - points[i]) @ (ends[i] / np.linalg.norm(ends[i])) for i in range(3)]


def membership(p):
    """How much each point belongs to each finger, and its distance (mm) from their surfaces: [N, 5] both."""
    distance = np.stack([finger_distance(p, finger) for finger in FINGERS], -1)
    soft = np.exp(-(distance - distance.min(-1, keepdims=True)) / 1.5)
    return soft / soft.sum(-1, keepdims=True), distance


def skinning(p, triangles):
    """Weights [778, 16], rows sum to 1: a smooth step across each joint along the finger that a vertex belongs to."""
    belongs, distance = membership(p)
    weights = np.zeros((len(p), 16))
    for i, finger in enumerate(FINGERS):
        joints = MANO_FINGER_JOINTS[finger]
        radii = RADII[finger]
        s = chain_place(p, finger)
        if finger == "thumb":  # the metacarpal moves the thenar with it, fading out over the palm
            first = smoothstep((s[0] + 8) / 34) * smoothstep((13 - distance[:, i]) / 13)
            steps = [first, smoothstep((s[1] + 8) / 16), smoothstep((s[2] + 7) / 14)]
        else:
            steps = [smoothstep((s[k] + 0.9 * radii[k]) / (1.9 * radii[k])) for k in range(3)]
            if finger == "index":  # the back of the thumb's web stays with the palm
                steps[0] = steps[0] * smoothstep((s[0] + 10) / 10)
        inside = [steps[0], steps[0] * steps[1], steps[0] * steps[1] * steps[2]]
        for k, joint in enumerate(joints):
            weights[:, joint] = belongs[:, i] * (inside[k] - (inside[k + 1] if k < 2 else 0))
    weights[:, 0] = 1 - weights[:, 1:].sum(-1)
    average = neighbour_average(len(p), triangles)
    for _ in range(2):
        weights = 0.5 * weights + 0.5 * (average @ weights)
    weights[weights < 0.01] = 0
    return weights / weights.sum(-1, keepdims=True)


def rest_joints():
    joints = np.zeros((16, 3))
    joints[0] = WRIST
    for finger in FINGERS:
        joints[list(MANO_FINGER_JOINTS[finger])] = BONES[finger][:3]
    return joints


def regressor(p):
    """J_regressor [16, 778]: non-negative rows that sum to 1, over the vertices around each joint, and hit it."""
    from scipy.optimize import nnls

    rows = np.zeros((16, len(p)))
    for j, joint in enumerate(rest_joints()):
        distance = np.linalg.norm(p - joint, axis=-1)
        near = np.argsort(distance)[: 60 if j == 0 else 36]
        prior = np.exp(-0.5 * (distance[near] / distance[near].mean()) ** 2)
        prior /= prior.sum()
        hard = np.vstack((p[near].T - joint[:, None], np.full((1, len(near)), 10.0))) * 1e3
        target = np.concatenate((np.zeros(3), [10.0])) * 1e3
        rows[j, near], _ = nnls(np.vstack((hard, np.eye(len(near)))), np.concatenate((target, prior)))
        rows[j] /= rows[j].sum()
    return rows


def shape_directions(p, weights):
    """Ten displacements [10, 778, 3] (mm per unit of beta), made orthogonal in this order.

    Size, finger length, finger thickness, palm width, palm thickness, palm length, thumb length, thumb angle, index
    against ring finger, little finger. Fingers ride on the palm where it grows.
    """
    chain = {f: weights[:, list(MANO_FINGER_JOINTS[f])].sum(-1) for f in FINGERS}
    frames = {f: finger_frame(f) for f in FINGERS}
    place = {f: (p - BONES[f][0]) @ frames[f][0] for f in FINGERS}

    def lengthen(finger):
        return (chain[finger] * place[finger].clip(0))[:, None] * frames[finger][0]

    def thicken(finger):
        offset = p - BONES[finger][0]
        across = offset - (offset @ frames[finger][0])[:, None] * frames[finger][0]
        return chain[finger][:, None] * across

    def palm(axis, reach):
        """Stretches the palm along an axis; a finger moves as its own base does."""
        amount = (1 - sum(chain.values())) * reach(p[:, axis])
        for finger in FINGERS:
            amount = amount + chain[finger] * reach(BONES[finger][0][axis])
        return amount[:, None] * np.eye(3)[axis]

    def thumb_angle():
        axis = np.array((0.25, 1.0, 0.0)) / np.linalg.norm((0.25, 1.0, 0.0))
        return chain["thumb"][:, None] * np.cross(axis, p - BONES["thumb"][0])

    four = FINGERS[1:]
    raw = [
        0.05 * (p - WRIST),
        0.055 * sum(lengthen(f) for f in four),
        0.07 * (sum(thicken(f) for f in FINGERS)),
        0.06 * palm(2, lambda r: r),
        0.08 * palm(1, lambda h: h),
        0.04 * palm(0, lambda d: np.clip(d, 0, 95)),
        0.07 * lengthen("thumb"),
        0.09 * thumb_angle(),
        0.035 * (lengthen("ring") - lengthen("index")),
        0.07 * lengthen("little"),
    ]
    basis = []
    for direction in raw:
        for other in basis:
            direction = direction - other * np.sum(direction * other) / np.sum(other * other)
        basis.append(direction)
    return np.stack(basis)


def correctives(p, weights, normals):
    """posedirs [135, 778, 3] (mm): give back the volume that linear blending loses at a bent joint.

    A vertex shared half and half between two bones shrinks toward the joint by 1 - cos(angle / 2), about a quarter of
    1 - cos(angle) = -trace(R - I) / 2: so it is pushed out along its normal by that, less on the palm's side.
    """
    posedirs = np.zeros((135, len(p), 3))
    for finger in FINGERS:
        back = finger_frame(finger)[1]
        for k, joint in enumerate(MANO_FINGER_JOINTS[finger]):
            if finger == "thumb" and k == 0:
                continue
            beyond = weights[:, list(MANO_FINGER_JOINTS[finger])[k:]].sum(-1)
            shared = 4 * beyond * (1 - beyond)
            radius = RADII[finger][k]
            side = 0.25 + 0.75 * smoothstep((normals @ back + 0.6) / 1.2)
            push = (shared * side * radius * 0.25)[:, None] * normals
            for entry in (0, 4, 8):
                posedirs[9 * (joint - 1) + entry] = -0.5 * push
    return posedirs


def finger_order(p):
    """Vertices ordered as MANO has them, palm first, then finger by finger, with the tips at MANO's own indices."""
    belongs, distance = membership(p)
    group = np.zeros(len(p), int)
    for order, finger in enumerate(("index", "middle", "ring", "little", "thumb")):
        i = FINGERS.index(finger)
        past = chain_place(p, finger)[0 if finger != "thumb" else 1] > (12 if finger != "thumb" else 0)
        group[(belongs.argmax(-1) == i) & past & (distance[:, i] < 4)] = order + 1
    order = list(np.lexsort((p[:, 0], group)))
    tips = {}
    for finger, index in zip(FINGERS, TIP_VERTICES["right"], strict=True):
        along = finger_frame(finger)[0]
        tips[index] = int(np.argmax(p @ along - 1e6 * (distance[:, FINGERS.index(finger)] > 3)))
    middle = tips[TIP_VERTICES["right"][2]]
    beside = np.argsort(np.linalg.norm(p - p[middle], axis=-1))[1]
    tips[TIP_VERTICES["left"][2]] = int(beside)
    for index, vertex in tips.items():
        at = order.index(vertex)
        order[index], order[at] = order[at], order[index]
    return np.array(order)


def synergies():
    """hands_components [45, 45], orthonormal rows: curl of all fingers first, then how fingers part, then the rest."""
    frames = {f: to_mano_axes(*finger_frame(f)) for f in FINGERS}

    def rotation(finger, joint, axis, amount=1.0):
        row = np.zeros((15, 3))
        row[MANO_FINGER_JOINTS[finger][joint] - 1] = frames[finger][axis] * amount
        return row.reshape(45)

    def curl(finger, amounts=(1.0, 1.1, 0.7)):
        return sum(rotation(finger, k, 2, amount) for k, amount in enumerate(amounts))

    four = FINGERS[1:]
    spread = dict(zip(four, (1.0, 0.2, -0.5, -1.2), strict=True))
    rows = [
        sum(curl(f) for f in four) + 0.4 * curl("thumb", (0.5, 0.6, 0.8)),
        sum(rotation(f, 0, 2, 1.0) - rotation(f, 1, 2, 0.6) - rotation(f, 2, 2, 0.4) for f in four),
        rotation("thumb", 0, 1, 1.0) + 0.5 * rotation("thumb", 0, 0, 1.0),
        curl("index") - 0.4 * curl("ring") - 0.6 * curl("little"),
        curl("thumb", (0.2, 0.7, 1.0)),
        sum(rotation(f, 0, 1, amount) for f, amount in spread.items()),
        curl("middle") - curl("little"),
        rotation("thumb", 0, 2, 1.0),
        curl("ring") - curl("middle"),
        *(rotation(f, k, axis) for axis in (2, 1, 0) for k in (0, 1, 2) for f in FINGERS),
    ]
    basis = []
    for row in rows:
        for _ in range(2):
            for other in basis:
                row = row - other * (row @ other)
        if np.linalg.norm(row) > 1e-6:
            basis.append(row / np.linalg.norm(row))
    mean = (
        sum(curl(f, (0.35, 0.45, 0.25)) for f in four)
        + curl("thumb", (0.1, 0.15, 0.25))
        + rotation("thumb", 0, 1, 0.15)
    )
    return np.stack(basis), mean


def to_mano(p):
    """Design coordinates (mm) to MANO's rest frame (m): fingers along -x, back of the hand +y, thumb +z."""
    return (np.asarray(p) - ORIGIN) * (-1e-3, 1e-3, 1e-3)


def to_mano_axes(along, back, _):
    """A finger's frame in MANO's: along the bone, out of its back, and the axis of positive flexion, right-handed."""
    along, back = along * (-1, 1, 1), back * (-1, 1, 1)
    return along, back, np.cross(back, along)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "stand_in.npz")
    out = parser.parse_args().out

    p, triangles = make_mesh()
    order = finger_order(p)
    rank = np.argsort(order)
    p, triangles = p[order], rank[triangles]
    triangles = triangles[np.lexsort(triangles.T[::-1])]
    weights = skinning(p, triangles)
    components, mean = synergies()
    flip = np.array((-1e-3, 1e-3, 1e-3))  # directions: mm to m, and d to -x
    arrays = {
        "v_template": to_mano(p),
        "shapedirs": np.moveaxis(shape_directions(p, weights) * flip, 0, 2),
        "posedirs": np.moveaxis(correctives(p, weights, gradient(p)) * flip, 0, 2),
        "J_regressor": regressor(p),
        "weights": weights,
        "hands_components": components,
        "hands_mean": mean,
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["f"] = triangles.astype(np.uint16)
    out.parent.mkdir(exist_ok=True)
    np.savez_compressed(out, **arrays)
    print(f"{out}: {out.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
