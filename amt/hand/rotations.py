"""Rotations in the forms that the model and the data use, in plain PyTorch and without a branch on values.

Quaternions are inside only: x, y, z, w. Near 0, where a quotient is 0 / 0, a series takes its place; the threshold between both
is where the errors of their derivatives are equal.
"""

from __future__ import annotations

import torch
from torch import Tensor


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3] (rad), by Rodrigues' formula; finite gradient everywhere."""
    angle, least = axis_angle.norm(dim=-1), min(1e-6, torch.finfo(axis_angle.dtype).eps ** 0.5)
    x, y, z = (axis_angle / angle[..., None].clamp_min(least)).unbind(-1)
    sine, versine = angle.sin(), 1 - angle.cos()
    xs, ys, zs = x * sine, y * sine, z * sine
    xy, xz, yz = x * y * versine, x * z * versine, y * z * versine
    xx, yy, zz = x * x * versine, y * y * versine, z * z * versine
    rows = 1 - yy - zz, xy - zs, xz + ys, xy + zs, 1 - xx - zz, yz - xs, xz - ys, yz + xs, 1 - xx - yy
    x, y, z = axis_angle.unbind(-1)
    one = torch.ones_like(x)
    linear = one, -z, y, z, one, -x, -y, x, one  # in the vector, to the last digit
    return torch.where((angle < least)[..., None], torch.stack(linear, -1), torch.stack(rows, -1)).unflatten(-1, (3, 3))


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Axis-angle vectors [..., 3] (rad, length at most pi) of rotation matrices [..., 3, 3]; finite gradient everywhere.

    By the quaternion of Markley, "Unit quaternion from rotation matrix" (JGCD 31, 2008): one of four multiples of it, each exact
    where its own component is the largest.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    multiples = (
        *(1 + a - e - i, d + b, g + c, h - f),
        *(b + d, 1 + e - i - a, h + f, c - g),
        *(c + g, f + h, 1 + i - a - e, d - b),
        *(h - f, c - g, d - b, 1 + a + e + i),
    )
    multiples = torch.stack(multiples, -1).unflatten(-1, (4, 4))
    largest = multiples.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = multiples.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4))[..., 0, :]
    return _quaternion_to_axis_angle(chosen / chosen.norm(dim=-1, keepdim=True))


def compose_axis_angles(second: Tensor, first: Tensor) -> Tensor:
    """The axis-angle vectors [..., 3] (rad) of ``first`` followed by ``second``; through quaternions."""
    p, q = torch.broadcast_tensors(_axis_angle_to_quaternion(second), _axis_angle_to_quaternion(first))
    (p, v), (q, w) = ((x[..., :3], x[..., 3:]) for x in (p, q))
    vector = v * q + w * p + torch.linalg.cross(p, q)
    product = torch.cat((vector, v * w - (p * q).sum(-1, keepdim=True)), -1)
    return _quaternion_to_axis_angle(product / product.norm(dim=-1, keepdim=True))


def matrix_to_six_d(matrix: Tensor) -> Tensor:
    """The first two columns of rotation matrices [..., 3, 3], laid end to end: [..., 6]. Identity is 1 0 0 0 1 0."""
    return matrix[..., :2].mT.flatten(-2)


def six_d_to_matrix(six_d: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of any two vectors [..., 6] that are not parallel, by Gram-Schmidt.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks" (CVPR 2019).
    """

    def unit(vector: Tensor) -> Tensor:  # two zero vectors give a finite matrix (not a rotation) instead of NaN
        return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-8)

    x, y = unit(six_d[..., :3]), six_d[..., 3:]
    y = unit(y - (x * y).sum(-1, keepdim=True) * x)
    return torch.stack((x, y, torch.linalg.cross(x, y)), -1)


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


def _axis_angle_to_quaternion(axis_angle: Tensor) -> Tensor:
    half = axis_angle.norm(dim=-1, keepdim=True) / 2
    near, safe = _near_zero(half)
    share = torch.where(near, 1 - half**2 / 6 + half**4 / 120, half.sin() / safe)  # sin(x) / x
    return torch.cat((share / 2 * axis_angle, half.cos()), -1)


def _quaternion_to_axis_angle(quaternion: Tensor) -> Tensor:
    quaternion = torch.where(
        quaternion[..., 3:] > 0, quaternion, -quaternion
    )  # of both that are this rotation, the shorter
    vector, real = quaternion[..., :3], quaternion[..., 3:]
    half = torch.atan2(vector.norm(dim=-1, keepdim=True), real)
    near, safe = _near_zero(half)
    ratio = torch.where(
        near, 1 + half**2 / 6 + 7 * half**4 / 360, half / torch.where(near, safe, half.sin())
    )  # x / sin(x)
    return 2 * ratio * vector


def _near_zero(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where a series is more exact than a quotient by x, and x with ones there."""
    near = x < 2 * torch.finfo(x.dtype).eps ** (1 / 6)
    return near, torch.where(near, torch.ones_like(x), x)
