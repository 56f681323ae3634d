"""Joint regressor, pose correctives and pose basis of the baked hand."""

from __future__ import annotations

import numpy as np

from amt.hand.bake.skinning import dual_quaternions, forward_kinematics, linear
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

NEAR = 60  # vertices that a joint may be regressed from
POSES = 600  # that the correctives are fitted to
RIDGE = 1e-3
ROUNDS, THUMB_ROUNDS = 2, 3  # of averaging the weights
BOUND = 0.02  # added to squared singular values before they are inverted
LEAST_SHARE = 0.01  # a vertex with less of its weight on one side of a joint does not depend on it
FLEXION = {"thumb": (0.7, 1.1, 1.3)} | dict.fromkeys(FINGERS[1:], (1.55, 1.8, 1.2))  # rad, largest


def joint_regressor(template: np.ndarray, directions: np.ndarray, joints: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Rows [16, V], not negative, of sum 1, that hit the mean joints and their changes with shape.

    Args:
        template: [V, 3], m; directions: [K, V, 3].
        joints: [16, 3], m; moves: [K, 16, 3].
    """
    from scipy.optimize import nnls

    rows = np.zeros((len(joints), len(template)))
    for j, joint in enumerate(joints):
        distance = np.linalg.norm(template - joint, axis=1)
        near = np.argsort(distance)[:NEAR]
        prior = np.exp(-0.5 * (distance[near] / distance[near].mean()) ** 2)
        prior /= prior.sum()
        fit = (
            np.concatenate([template[near].T, *directions[:, near].transpose(0, 2, 1), np.full((1, NEAR), 10.0)]) * 1e3
        )
        wanted = np.concatenate([joint, *moves[:, j], [10.0]]) * 1e3
        rows[j, near], _ = nnls(np.vstack((fit, np.eye(NEAR))), np.concatenate((wanted, prior)))
        rows[j] /= rows[j].sum()
    return rows


def finger_frames(joints: np.ndarray, tips: np.ndarray, backs: np.ndarray) -> np.ndarray:
    """Along the bone, out of its back, and the axis of positive flexion, of each finger: [5, 3, 3]."""
    frames = []
    for i, finger in enumerate(FINGERS):
        along = tips[i] - joints[MANO_FINGER_JOINTS[finger][1 if finger == "thumb" else 0]]
        along = along / np.linalg.norm(along)
        back = backs[i] - along * (along @ backs[i])
        back /= np.linalg.norm(back)
        frames.append((along, back, np.cross(back, along)))
    return np.array(frames)


def correctives(template: np.ndarray, weights: np.ndarray, joints: np.ndarray, frames: np.ndarray, seed: int = 2):
    """posedirs [V, 3, 135], m: what linear blending lacks against dual quaternions.

    The difference in random poses is brought back to the rest pose. At each vertex it is fitted by a linear function of (R - I)
    of those joints that the vertex lies across, with a small ridge: 0 at rest.
    """
    poses = random_poses(frames, np.random.default_rng(seed))
    lacks = np.empty((len(poses), *template.shape))
    for pose, lack in zip(poses, lacks, strict=True):
        rotations, places = forward_kinematics(joints, pose)
        wanted = dual_quaternions(template, weights, joints, rotations, places)
        blend, shift = linear(template, weights, joints, rotations, places)
        missing = wanted - shift - (blend @ template[..., None])[..., 0]
        # the mean of two rotations far apart is nearly singular: a bounded inverse
        u, s, vt = np.linalg.svd(blend)
        inverse = np.swapaxes(vt, 1, 2) @ ((s / (s * s + BOUND))[..., None] * np.swapaxes(u, 1, 2))
        lack[:] = (inverse @ missing[..., None])[..., 0]
    features = (poses[:, 1:] - np.eye(3)).reshape(len(poses), 15, 9)

    across = np.zeros((len(template), 15), bool)
    for numbers in MANO_FINGER_JOINTS.values():
        for k, joint in enumerate(numbers):
            beyond = weights[:, list(numbers[k:])].sum(1)
            across[:, joint - 1] = (beyond > LEAST_SHARE) & (beyond < 1 - LEAST_SHARE)
    posedirs = np.zeros((len(template), 3, 135))
    groups, group_of = np.unique(across, axis=0, return_inverse=True)
    for number, group in enumerate(groups):
        if not group.any():
            continue
        near = np.flatnonzero(group_of.reshape(-1) == number)
        inputs = features[:, group].reshape(len(poses), -1)
        gram = inputs.T @ inputs + RIDGE * len(poses) * np.eye(inputs.shape[1])
        fitted = np.linalg.solve(gram, inputs.T @ lacks[:, near].reshape(len(poses), -1))
        columns = np.flatnonzero(np.repeat(group, 9))
        posedirs[near[:, None], :, columns[None]] = fitted.reshape(len(columns), len(near), 3).transpose(1, 0, 2)
    return posedirs


def random_poses(frames: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rotations [POSES, 16, 3, 3] relative to the parents: fingers that bend together, and each by itself."""
    from scipy.spatial.transform import Rotation

    poses = np.tile(np.eye(3), (POSES, 16, 1, 1))
    for pose in poses:
        together = generator.uniform(0, 1)
        for i, finger in enumerate(FINGERS):
            curl = together if generator.random() < 0.6 else generator.uniform(0, 1)
            for k, joint in enumerate(MANO_FINGER_JOINTS[finger]):
                side = 1.0 if k == 0 else 0.1  # a hinge hardly moves sideways
                flexion = curl * FLEXION[finger][k] + generator.normal(0, 0.1)
                angles = (flexion, side * generator.normal(0, 0.2), side * generator.normal(0, 0.15))
                pose[joint] = Rotation.from_rotvec(angles @ frames[i][[2, 1, 0]]).as_matrix()
    return poses


def synergies(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """hands_components [45, 45], orthonormal rows: curl of all fingers, how they part, the rest; and hands_mean [45]."""
    axes = dict(zip(FINGERS, frames, strict=True))

    def rotation(finger, joint, axis, amount=1.0):
        row = np.zeros((15, 3))
        row[MANO_FINGER_JOINTS[finger][joint] - 1] = axes[finger][axis] * amount
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
    basis: list[np.ndarray] = []
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


def smoothed(weights: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Weights averaged with those of their neighbours; shares under 1 % are dropped, at most four are left a vertex.

    Thenar and web, which follow the thumb's metacarpal, are averaged more often: they fold on themselves otherwise.
    """
    count = len(weights)
    pairs = np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)])
    pairs = np.unique(np.concatenate((pairs, pairs[:, ::-1])), axis=0)
    degree = np.bincount(pairs[:, 0], minlength=count)[:, None]
    metacarpal = weights[:, [MANO_FINGER_JOINTS["thumb"][0]]] > 0.02
    for number in range(ROUNDS + THUMB_ROUNDS):
        total = np.zeros_like(weights)
        np.add.at(total, pairs[:, 0], weights[pairs[:, 1]])
        averaged = 0.5 * weights + 0.5 * total / degree
        weights = averaged if number < ROUNDS else np.where(metacarpal, averaged, weights)
    least = np.sort(weights, axis=1)[:, -4][:, None]
    weights = np.where((weights < 0.01) | (weights < least), 0.0, weights)
    return weights / weights.sum(1, keepdims=True)
