"""Skinning by dual quaternions and by linear blending, on NumPy arrays.

Kavan et al., "Geometric Skinning with Approximate Dual Quaternion Blending" (2008): a bent joint keeps its thickness;
linear blending collapses it.
"""

from __future__ import annotations

import numpy as np

from amt.hand.skeleton import MANO_PARENTS


def forward_kinematics(
    rest: np.ndarray, local: np.ndarray, parents: tuple[int, ...] = MANO_PARENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Global rotations [J, 3, 3] and positions [J, 3] from joints at rest [J, 3] and rotations relative to the parents."""
    rotations, places = local.copy(), rest.copy()
    for joint, parent in enumerate(parents):
        if parent >= 0:
            rotations[joint] = rotations[parent] @ local[joint]
            places[joint] = places[parent] + rotations[parent] @ (rest[joint] - rest[parent])
    return rotations, places


def linear(points: np.ndarray, weights: np.ndarray, rest: np.ndarray, rotations: np.ndarray, places: np.ndarray):
    """Blended matrices and shifts: (A [V, 3, 3], b [V, 3]) with posed = A @ point + b."""
    shifts = places - np.einsum("jab,jb->ja", rotations, rest)
    return np.einsum("vj,jab->vab", weights, rotations), weights @ shifts


def dual_quaternions(points, weights, rest, rotations, places, parents=MANO_PARENTS) -> np.ndarray:
    """Posed points [V, 3] of points [V, 3] with weights [V, J] at rest joints [J, 3]."""
    from scipy.spatial.transform import Rotation

    shifts = places - np.einsum("jab,jb->ja", rotations, rest)
    real = Rotation.from_matrix(rotations).as_quat()[:, [3, 0, 1, 2]]
    for joint, parent in enumerate(parents):
        if (
            parent >= 0 and real[joint] @ real[parent] < 0
        ):  # the shorter way from the parent; a fist is more than half a turn
            real[joint] *= -1
    dual = 0.5 * _multiply(np.concatenate((np.zeros((len(shifts), 1)), shifts), 1), real)
    real, dual = weights @ real, weights @ dual
    length = np.linalg.norm(real, axis=1, keepdims=True)
    real, dual = real / length, dual / length
    w, u = real[:, :1], real[:, 1:]
    rotated = points + 2 * np.cross(u, np.cross(u, points) + w * points)
    moved = 2 * (w * dual[:, 1:] - dual[:, :1] * u + np.cross(u, dual[:, 1:]))
    return rotated + moved


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton's product of quaternions [..., 4], real part first."""
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate((w, v), -1)
