"""The MANO parameters nearest to given joints, by a few Gauss-Newton steps from a guess.

A model that moves each joint by itself leaves the set of hands that MANO can pose. These are the parameters to export with
such joints, to retarget, or to carry a hand over to another hand model (a left hand into MANO's own left file).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amt.hand.autocast import no_autocast
from amt.hand.mano import NUM_BETAS, NUM_MANO_JOINTS, ManoLayer
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.skeleton import MANO_FINGER_JOINTS

JOINT_SIGMA = 0.001  # m: how exactly the joints are wanted
ANGLE_SIGMA = 0.5  # rad: how far a joint may rotate from the guess for that
BETA_SIGMA = 1.0  # how far a shape parameter may move from the guess for that


class Fit(NamedTuple):
    """MANO's parameters, and what they give."""

    pose: Tensor  # [B, 16, 3, 3]
    betas: Tensor  # [B, 10]
    translation: Tensor  # [B, 3], m
    joints: Tensor  # [B, 21, 3], m: the layer's for these parameters


@torch.no_grad()
def fit_joints(
    layer: ManoLayer, joints: Tensor, pose: Tensor, betas: Tensor, translation: Tensor, steps: int = 3
) -> Fit:
    """Minimises over pose R, shape b and translation t

        sum_j |x_j(R, b, t) - joints_j|^2 / (1 mm)^2 + sum_k |angle_k|^2 / (0.5 rad)^2 + |b - betas|^2,

    where angle_k is the rotation of joint k away from the given pose. What the joints do not tell, such as the twist of a
    fingertip, stays as it was. No gradient goes through it.

    Args:
        layer: the hand of the parameters. A left hand needs a left layer, or joints and pose that are mirrored.
        joints: [B, 21, 3], m, in the order of amt.hand.skeleton.JOINT_NAMES.
        pose, betas, translation: the guess, [B, 16, 3, 3], [B, 10], [B, 3] (m).
        steps: Gauss-Newton steps.

    Raises:
        ValueError: ``joints`` of another shape.
    """
    if joints.shape[1:] != (21, 3):
        raise ValueError(f"joints: expected [B, 21, 3], got {list(joints.shape)}")
    dtype = layer.v_template.dtype
    with no_autocast(joints.device.type):
        wanted, pose, shape, translation = (x.to(dtype) for x in (joints, pose, betas, translation))
        prior = wanted.new_tensor([ANGLE_SIGMA**-2] * 3 * NUM_MANO_JOINTS + [BETA_SIGMA**-2] * NUM_BETAS + [0.0] * 3)
        moved = wanted.new_zeros(len(wanted), len(prior))  # from the guess: angles, betas, translation
        for _ in range(steps):
            x, jacobian = _linearized(layer, pose, shape, translation)
            residual = (wanted - x).flatten(1) / JOINT_SIGMA
            jacobian = jacobian / JOINT_SIGMA
            matrix = jacobian.mT @ jacobian + prior.diag()
            step = torch.linalg.solve(matrix, (jacobian.mT @ residual[..., None])[..., 0] - prior * moved)
            moved = moved + step
            angles, more, shift = step.split([3 * NUM_MANO_JOINTS, NUM_BETAS, 3], dim=1)
            pose = axis_angle_to_matrix(angles.unflatten(1, (NUM_MANO_JOINTS, 3))) @ pose
            shape, translation = shape + more, translation + shift
        return Fit(pose, shape, translation, layer(pose, shape, translation).joints)


def _linearized(layer: ManoLayer, pose: Tensor, betas: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
    """Joints [B, 21, 3] and their derivatives [B, 63, 61] by angles (in each parent's frame), betas and translation.

    The pose correctives' own share in a fingertip's derivative is left out: it is a hundredth.
    """
    batch = len(pose)
    rotations, places = layer.kinematics(pose, layer.rest_joints(betas))
    x = layer(pose, betas, translation).joints
    parents = rotations[:, [max(parent, 0) for parent in layer.parents]]
    parents[:, 0] = torch.eye(3, dtype=pose.dtype, device=pose.device)
    arm = x[:, :, None] - (places + translation[:, None])[:, None]  # [B, 21, 16, 3]: from each MANO joint to each joint
    # rotating by a small w moves a point at r by w x r
    columns = torch.linalg.cross(parents.mT[:, None].expand(batch, 21, -1, 3, 3), arm[..., None, :], dim=-1)
    columns = columns * _moves(layer)[:, :, None, None]
    by_angles = columns.permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2)  # [B, 63, 48]

    by_betas = _shape_derivatives(layer, pose, rotations).flatten(2).mT  # [B, 63, 10]
    by_translation = torch.eye(3, dtype=pose.dtype, device=pose.device).repeat(21, 1).expand(batch, -1, -1)
    return x, torch.cat((by_angles, by_betas, by_translation), dim=2)


def _shape_derivatives(layer: ManoLayer, pose: Tensor, rotations: Tensor) -> Tensor:
    """How each beta moves the joints, [B, 10, 21, 3]: they are affine in the betas as long as the pose stays."""
    batch, rest = len(pose), layer.joint_shapedirs  # [10, 16, 3]
    _, places = layer.kinematics(pose.repeat_interleave(NUM_BETAS, dim=0), rest.repeat(batch, 1, 1))
    places = places.unflatten(0, (batch, NUM_BETAS))
    tips, weights = layer.shapedirs[:, layer.tip_vertices], layer.weights[layer.tip_vertices]  # [10, 5, 3], [5, 16]
    carried = torch.einsum("bkcd,itkd->bitkc", rotations, tips[:, :, None] - rest[:, None]) + places[:, :, None]
    tips = (weights[..., None] * carried).sum(dim=3)
    return torch.cat((places, tips), dim=2).index_select(2, layer.joint_order)


def _moves(layer: ManoLayer) -> Tensor:
    """[21, 16]: 1 where rotating MANO's joint moves the skeleton's joint, else 0."""
    moves = torch.zeros(21, NUM_MANO_JOINTS)
    moves[1:, 0] = 1
    for finger, chain in enumerate(MANO_FINGER_JOINTS.values()):
        for k, mano_joint in enumerate(chain):
            moves[2 + 4 * finger + k : 5 + 4 * finger, mano_joint] = 1
    return moves.to(layer.v_template)
