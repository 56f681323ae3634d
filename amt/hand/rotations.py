"""Rotations in the forms that the model and the data use; the conversions themselves are roma's."""

from __future__ import annotations

import torch
from torch import Tensor


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3] (rad); finite gradient everywhere, zero included."""
    import roma

    return roma.rotvec_to_rotmat(axis_angle)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Axis-angle vectors [..., 3] (rad, length at most pi) of rotation matrices [..., 3, 3]."""
    import roma

    return roma.rotmat_to_rotvec(matrix)


def compose_axis_angles(second: Tensor, first: Tensor) -> Tensor:
    """The axis-angle vectors [..., 3] (rad) of ``first`` followed by ``second``; through quaternions, without a branch."""
    import roma

    return roma.rotvec_composition((second, first), normalize=True)


def matrix_to_six_d(matrix: Tensor) -> Tensor:
    """The first two columns of rotation matrices [..., 3, 3], laid end to end: [..., 6]. Identity is 1 0 0 0 1 0."""
    return matrix[..., :2].mT.flatten(-2)


def six_d_to_matrix(six_d: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of any two vectors [..., 6] that are not parallel, by Gram-Schmidt.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks" (CVPR 2019).
    """
    import roma

    # epsilon: two zero vectors give a finite matrix (not a rotation) instead of NaN
    return roma.special_gramschmidt(six_d.unflatten(-1, (2, 3)).mT, epsilon=1e-8)


def geodesic_distance(a: Tensor, b: Tensor) -> Tensor:
    """The angle [...] (rad, 0 to pi) between rotation matrices [..., 3, 3].

    From the sine and the cosine of the angle together: exact near 0 and near pi, and its gradient is finite at both
    (where it does not exist, it is 0), unlike that of arccos or arcsin.
    """
    relative = a.mT @ b
    skew = relative - relative.mT
    sine = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1).norm(dim=-1) / 2
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(sine, cosine)
