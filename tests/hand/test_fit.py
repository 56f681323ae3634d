"""Parameters for given joints: what is recovered, what stays, and what another hand's file needs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from amt.hand.fit import fit_joints
from amt.hand.mano import ManoLayer
from amt.hand.rotations import axis_angle_to_matrix, geodesic_distance
from amt.hand.shipped import shipped_hand


@pytest.fixture(scope="module")
def layer():
    return ManoLayer(shipped_hand("right"))


def hands(layer, count=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    vectors = torch.cat(
        (torch.randn(count, 3, generator=g), layer.hands_mean + 0.2 * torch.randn(count, 45, generator=g)), 1
    )
    pose = axis_angle_to_matrix(vectors.unflatten(1, (16, 3)))
    return (
        pose,
        torch.randn(count, 10, generator=g),
        torch.randn(count, 3, generator=g) * 0.1 + torch.tensor([0, 0, 0.7]),
    )


def nearby(pose, betas, translation, seed=1):
    """The same hands with every angle some 5 degrees off, other shapes, 5 mm aside."""
    g = torch.Generator().manual_seed(seed)
    bend = axis_angle_to_matrix(0.1 * torch.randn((*pose.shape[:2], 3), generator=g))
    return (
        bend @ pose,
        betas + 0.5 * torch.randn(betas.shape, generator=g),
        translation + 0.005 * torch.randn(translation.shape, generator=g),
    )


def distance(a, b):
    return (a - b).norm(dim=-1)


def test_joints_of_another_pose_and_shape_are_met(layer):
    guess = hands(layer)
    joints = layer(*nearby(*guess)).joints
    fit = fit_joints(layer, joints, *guess)
    assert distance(layer(*guess).joints, joints).mean() > 0.01
    assert distance(fit.joints, joints).max() < 0.001
    assert distance(fit.joints, joints).mean() < 0.0002
    assert torch.equal(layer(fit.pose, fit.betas, fit.translation).joints, fit.joints)
    torch.testing.assert_close(fit.pose @ fit.pose.mT, torch.eye(3).expand_as(fit.pose), atol=1e-5, rtol=0)


def test_it_is_a_minimum():
    """Joints 2 mm beside any hand: what is minimised has no slope left but for second-order terms of the angles."""
    import roma

    layer = ManoLayer(shipped_hand("right")).double()
    guess = [x.double() for x in hands(ManoLayer(shipped_hand("right")), 2)]
    start = layer(*guess).joints
    joints = start + 0.002 * torch.randn(2, 21, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    fit = fit_joints(layer, joints, *guess, steps=20)

    moved = [torch.zeros(2, 16, 3, dtype=torch.float64), fit.betas.clone(), fit.translation.clone()]
    angles, betas, translation = (x.requires_grad_() for x in moved)
    x = layer(axis_angle_to_matrix(angles) @ fit.pose, betas, translation).joints
    away = roma.rotmat_to_rotvec(fit.pose @ guess[0].mT) + angles
    cost = (x - joints).square().sum() / 0.001**2 + away.square().sum() / 0.5**2 + (betas - guess[1]).square().sum()
    slopes = torch.autograd.grad(cost, (angles, betas, translation))
    assert cost < 0.5 * (start - joints).square().sum() / 0.001**2
    assert slopes[1].abs().max() < 1e-6
    assert slopes[2].abs().max() < 1e-6
    assert slopes[0].abs().max() < 10  # at 1e4 or so per rad: 1e-3 rad from the minimum


def test_what_joints_do_not_tell_stays(layer):
    """Joints that the guess already gives leave it alone, the fingertips' twist included."""
    guess = hands(layer)
    fit = fit_joints(layer, layer(*guess).joints, *guess)
    assert geodesic_distance(fit.pose, guess[0]).max() < 1e-3
    assert (fit.betas - guess[1]).abs().max() < 1e-2


def test_a_left_hand_moves_into_a_left_file_of_another_shape_space(layer):
    """The same betas mean another hand there. Fitted ones give the same joints."""
    left = shipped_hand("left")
    rng = np.random.default_rng(0)
    other = ManoLayer(replace(left, shapedirs=left.shapedirs + 0.002 * rng.normal(size=left.shapedirs.shape).mean(0)))
    pose, betas, translation = hands(layer)
    joints = ManoLayer(left)(pose, betas, translation).joints
    same_betas = distance(other(pose, betas, translation).joints, joints).mean()
    fit = fit_joints(other, joints, pose, betas, translation)
    assert distance(fit.joints, joints).mean() < 0.2 * same_betas


def test_a_broken_hand_leaves_the_others_alone(layer):
    guess = hands(layer, 3)
    joints = layer(*guess).joints + 0.003
    alone = fit_joints(layer, joints[:1], *(x[:1] for x in guess))
    joints[1, 4] = float("nan")
    fit = fit_joints(layer, joints, *guess)
    torch.testing.assert_close(fit.joints[:1], alone.joints, atol=1e-5, rtol=0)
    assert fit.joints[[0, 2]].isfinite().all()
    assert fit.joints[1].isnan().all()


def test_another_number_of_joints_is_refused(layer):
    with pytest.raises(ValueError, match=r"joints: expected \[B, 21, 3\], got \[1, 16, 3\]"):
        fit_joints(layer, torch.zeros(1, 16, 3), *hands(layer, 1))
