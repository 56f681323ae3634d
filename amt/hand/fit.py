"""The MANO parameters nearest to given joints, by a few damped Gauss-Newton steps from a guess.

A model that moves each joint by itself leaves the set of hands that MANO can pose. These are the parameters to export with
such joints, to retarget, or to carry a hand over to another hand model (a left hand into MANO's own left file).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amt.hand.autocast import no_autocast
from amt.hand.mano import NUM_BETAS, NUM_MANO_JOINTS, ManoLayer
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle

JOINT_SIGMA = 0.001  # m: how exactly the joints are wanted
ANGLE_SIGMA = 0.5  # rad: how far a joint may rotate from the guess for that
BETA_SIGMA = 1.0  # how far a shape parameter may move from the guess for that
FIRST_DAMPING, LEAST_DAMPING = 1.0, 1e-6  # times the angles' prior
EASE, TIGHTEN = (
    0.3,
    10.0,
)  # the damping's factors after a step that lowers what is minimised, and after one that does not


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

    Levenberg-Marquardt, each hand by itself: a step that does not lower a hand's sum is taken back, and its next one is damped
    more. The sum never rises. Three steps come within a few percent of the least sum; ten reach it from joints with 5 mm of
    noise.

    Args:
        layer: the hand of the parameters. A left hand needs a left layer, or joints and pose that are mirrored.
        joints: [B, 21, 3], m, in the order of amt.hand.skeleton.JOINT_NAMES. A hand with NaN in it comes out as NaN.
        pose, betas, translation: the guess, [B, 16, 3, 3], [B, 10], [B, 3] (m).
        steps: at most so many steps.

    Raises:
        ValueError: ``joints`` of another shape.
    """
    if joints.shape[1:] != (21, 3):
        raise ValueError(f"joints: expected [B, 21, 3], got {list(joints.shape)}")
    dtype = layer.v_template.dtype
    with no_autocast(joints.device.type):
        wanted, guess, first, translation = (x.to(dtype) for x in (joints, pose, betas, translation))
        prior = wanted.new_tensor([ANGLE_SIGMA**-2] * 3 * NUM_MANO_JOINTS + [BETA_SIGMA**-2] * NUM_BETAS + [0.0] * 3)

        def judged(pose: Tensor, shape: Tensor, translation: Tensor) -> tuple[Tensor, ...]:
            """Joints, the way from the guess [B, 61], and what is minimised [B]."""
            x = layer(pose, shape, translation).joints
            angles = matrix_to_axis_angle(pose @ guess.mT).flatten(1)
            moved = torch.cat((angles, shape - first, torch.zeros_like(translation)), dim=1)
            cost = (wanted - x).flatten(1).square().sum(1) / JOINT_SIGMA**2 + (prior * moved.square()).sum(1)
            return x, moved, cost

        now = (guess, first, translation)
        now = (*now, *judged(*now))
        damping, identity = torch.full_like(now[-1], FIRST_DAMPING), torch.eye(len(prior)).to(prior)
        for _ in range(steps):
            pose, shape, translation, x, moved, cost = now
            residual = (wanted - x).flatten(1) / JOINT_SIGMA
            jacobian, axes = _derivatives(layer, pose, shape, translation, x)
            jacobian = jacobian / JOINT_SIGMA
            # the angles' own slope is exact: a rotation about its own axis is the only one that changes its angle
            downhill = (jacobian.mT @ residual[..., None])[..., 0] - prior * moved
            first_order = jacobian.mT @ jacobian + prior.diag()
            # Where a fingertip's twist has a weak prior, the joints' second derivatives outweigh it. Absolute eigenvalues
            # keep a step going down; far from the minimum the first-order matrix is the better one, so both are tried.
            second_order = first_order - _curvature(layer, axes, jacobian, residual)
            best = now
            for matrix in (first_order, second_order):
                values, vectors = torch.linalg.eigh(torch.where(cost.isnan()[:, None, None], identity, matrix))
                size = values.abs() + damping[:, None] * ANGLE_SIGMA**-2
                step = (vectors @ ((vectors.mT @ downhill[..., None]) / size[..., None]))[..., 0]
                angles, more, shift = step.split([3 * NUM_MANO_JOINTS, NUM_BETAS, 3], dim=1)
                rotated = axis_angle_to_matrix(angles.unflatten(1, (NUM_MANO_JOINTS, 3))) @ pose
                tried = (rotated, shape + more, translation + shift)
                best = _lower(best, (*tried, *judged(*tried)))
            better = best[-1] < cost
            now = best
            damping = torch.where(better, damping * EASE, damping * TIGHTEN).clamp(min=LEAST_DAMPING)
        return Fit(*now[:4])


def _lower(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of two states [B, ...], each hand's own with the lower last entry; the second where the first is NaN."""
    second = (b[-1] < a[-1]) | a[-1].isnan()
    return tuple(torch.where(second.view(-1, *[1] * (y.dim() - 1)), y, x) for x, y in zip(a, b, strict=True))


def _derivatives(
    layer: ManoLayer, pose: Tensor, betas: Tensor, translation: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """How joints ``x`` [B, 21, 3] move, [B, 63, 61]: by angles (in each parent's frame), betas and translation.

    The second result holds the angles' axes as columns, [B, 16, 3, 3].
    """
    batch, rest = len(pose), layer.rest_joints(betas)
    rotations, places = layer.kinematics(pose, rest)
    parents = rotations[:, [max(parent, 0) for parent in layer.parents]]
    parents[:, 0] = torch.eye(3, dtype=pose.dtype, device=pose.device)

    # The 16 joints: rotating joint k by a small w moves a joint at r from it, below it, by w x r.
    below = _below(layer)  # [k, j]
    arms = below.T[:, :, None] * (places[:, :, None] - places[:, None])  # [B, j, k, 3]
    # A tip is a sum of points that joints carry, each with its weight.
    weights = layer.weights[layer.tip_vertices]  # [5, 16]
    at_rest = _tips_at_rest(layer, pose, betas)
    carried = torch.einsum("bjcd,btjd->btjc", rotations, at_rest[:, :, None] - rest[:, None]) + places[:, None]
    share = weights @ below.T  # [5, k]
    tip_arms = torch.einsum("tj,kj,btjc->btkc", weights, below, carried) - share[:, :, None] * places[:, None]
    arms = torch.cat((arms, tip_arms), dim=1)  # [B, 21, k, 3]
    columns = torch.linalg.cross(parents.mT[:, None].expand(batch, 21, -1, 3, 3), arms[..., None, :], dim=-1)
    columns[:, NUM_MANO_JOINTS:, 1:] += _by_correctives(layer, pose, torch.einsum("tj,bjcd->btcd", weights, rotations))
    columns = columns.index_select(1, layer.joint_order)
    by_angles = columns.permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2)  # [B, 63, 48]

    by_betas = _shape_derivatives(layer, pose, rotations).flatten(2).mT  # [B, 63, 10]
    by_translation = torch.eye(3, dtype=pose.dtype, device=pose.device).repeat(21, 1).expand(batch, -1, -1)
    return torch.cat((by_angles, by_betas, by_translation), dim=2), parents


def _curvature(layer: ManoLayer, axes: Tensor, jacobian: Tensor, residual: Tensor) -> Tensor:
    """The residuals [B, 63] times the joints' second derivatives by the angles, [B, 61, 61]; pose correctives left out.

    Rotating joint k, then joint l below it, moves a point by w_k x (w_l x r): the derivative is w_k times the torque of the
    residuals on the first derivative by w_l.
    """
    angles = 3 * NUM_MANO_JOINTS
    columns = jacobian[:, :, :angles].unflatten(1, (21, 3)).permute(0, 3, 1, 2)  # [B, 48, 21, 3]
    torque = torch.linalg.cross(columns, residual.unflatten(1, (21, 3))[:, None].expand_as(columns), dim=-1).sum(2)
    both = torch.einsum("bkca,bmc->bkam", axes, torque).flatten(1, 2)  # [B, 48 of k, 48 of l]
    pairs = _below(layer) - torch.eye(NUM_MANO_JOINTS).to(both) / 2  # of the same joint, half from either order
    both = both * pairs.repeat_interleave(3, 0).repeat_interleave(3, 1)
    rest = jacobian.shape[2] - angles
    return torch.nn.functional.pad(both + both.mT, (0, rest, 0, rest))


def _tips_at_rest(layer: ManoLayer, pose: Tensor, betas: Tensor) -> Tensor:
    """The tips' vertices before skinning, shape and pose correctives included: [B, 5, 3] (m)."""
    tips = layer.tip_vertices
    relative = (pose[:, 1:] - torch.eye(3, dtype=pose.dtype, device=pose.device)).flatten(1)
    shaped = layer.v_template[tips] + torch.einsum("bk,ktc->btc", betas, layer.shapedirs[:, tips])
    return shaped + torch.einsum("bn,ntc->btc", relative, layer.posedirs[:, tips])


def _by_correctives(layer: ManoLayer, pose: Tensor, blended: Tensor) -> Tensor:
    """How the pose correctives move the tips as joints rotate, [B, 5, 15, 3 (angle), 3]."""
    generators = torch.zeros(3, 3, 3, dtype=pose.dtype, device=pose.device)  # of rotations about x, y and z
    generators[[0, 1, 2], [2, 0, 1], [1, 2, 0]], generators[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1, -1
    directions = layer.posedirs[:, layer.tip_vertices].unflatten(0, (NUM_MANO_JOINTS - 1, 3, 3))  # [15, 3, 3, 5, 3]
    return torch.einsum("iad,bkde,kaetc,btsc->btkis", generators, pose[:, 1:], directions, blended)


def _shape_derivatives(layer: ManoLayer, pose: Tensor, rotations: Tensor) -> Tensor:
    """How each beta moves the joints, [B, 10, 21, 3]: they are affine in the betas as long as the pose stays."""
    batch, rest = len(pose), layer.joint_shapedirs  # [10, 16, 3]
    _, places = layer.kinematics(pose.repeat_interleave(NUM_BETAS, dim=0), rest.repeat(batch, 1, 1))
    places = places.unflatten(0, (batch, NUM_BETAS))
    tips, weights = layer.shapedirs[:, layer.tip_vertices], layer.weights[layer.tip_vertices]  # [10, 5, 3], [5, 16]
    carried = torch.einsum("bkcd,itkd->bitkc", rotations, tips[:, :, None] - rest[:, None]) + places[:, :, None]
    tips = (weights[..., None] * carried).sum(dim=3)
    return torch.cat((places, tips), dim=2).index_select(2, layer.joint_order)


def _below(layer: ManoLayer) -> Tensor:
    """[16, 16]: 1 where MANO's joint k carries joint j, itself included, else 0."""
    below = torch.eye(NUM_MANO_JOINTS)
    for joint, parent in enumerate(layer.parents):  # parents come first
        if parent >= 0:
            below[:, joint] += below[:, parent]
    return below.to(layer.v_template)
