"""Parameters for given joints: what is recovered, what stays, and what another hand's file needs."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from amt.hand.fit import fit_joints
from amt.hand.mano import ManoLayer
from amt.hand.rotations import axis_angle_to_matrix, geodesic_distance, matrix_to_axis_angle
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


def minimised(layer, joints, guess, angles, betas, translation):
    """What fit_joints minimises, [B], written anew: angles [B, 16, 3] rotate the guess's joints."""
    x = layer(axis_angle_to_matrix(angles) @ guess[0], betas, translation).joints
    away = angles.square().sum((1, 2)) / 0.5**2 + (betas - guess[1]).square().sum(1)
    return (x - joints).square().sum((1, 2)) / 0.001**2 + away


@pytest.fixture(scope="module")
def noisy():
    """Joints 5 mm a coordinate beside those of the guess: no hand has them."""
    layer = ManoLayer(shipped_hand("right")).double()
    guess = [x.double() for x in hands(ManoLayer(shipped_hand("right")), 2)]
    noise = torch.randn(2, 21, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return layer, layer(*guess).joints + 0.005 * noise, guess


def test_it_is_a_minimum(noisy):
    """No slope is left. The least sum of these two hands is 0.370 and 0.369 of the guess's."""
    layer, joints, guess = noisy
    fit = fit_joints(layer, joints, *guess, steps=20)
    angles = matrix_to_axis_angle(fit.pose @ guess[0].mT)
    found = [x.clone().requires_grad_() for x in (angles, fit.betas, fit.translation)]
    cost = minimised(layer, joints, guess, *found)
    start = minimised(layer, joints, guess, torch.zeros(2, 16, 3).double(), *guess[1:])
    assert (cost < 0.371 * start).all()
    for slope, most in zip(
        torch.autograd.grad(cost.sum(), found), (0.01, 0.01, 1.0), strict=True
    ):  # a rad, a sigma, a m
        assert slope.abs().max() < most  # curvatures are 1e4 a rad^2, 10 a sigma^2, 2e7 a m^2


def test_another_solver_finds_no_less(noisy):
    """scipy's trust-region least squares, with finite differences, from the same guess."""
    from scipy.optimize import least_squares

    layer, joints, guess = noisy
    fit = fit_joints(layer, joints, *guess, steps=20)
    ours = minimised(layer, joints, guess, matrix_to_axis_angle(fit.pose @ guess[0].mT), fit.betas, fit.translation)

    def residuals(x, hand):
        x = torch.from_numpy(x)
        angles, betas, shift = x[:48].view(1, 16, 3), guess[1][hand] + x[48:58], guess[2][hand] + x[58:] * 0.01
        one = layer(axis_angle_to_matrix(angles) @ guess[0][hand][None], betas[None], shift[None]).joints[0]
        return torch.cat(((one - joints[hand]).flatten() / 0.001, x[:48] / 0.5, x[48:58])).numpy()

    for hand in range(2):
        other = least_squares(residuals, np.zeros(61), args=(hand,), max_nfev=60)
        assert ours[hand] < 2 * other.cost * (1 + 1e-6)


def test_the_sum_never_rises(noisy):
    layer, joints, guess = noisy
    sums = []
    for steps in range(6):
        fit = fit_joints(layer, joints, *guess, steps=steps)
        angles = matrix_to_axis_angle(fit.pose @ guess[0].mT)
        sums.append(minimised(layer, joints, guess, angles, fit.betas, fit.translation))
    assert all((after <= before * (1 + 1e-12)).all() for before, after in pairwise(sums))
    assert (sums[3] < 1.15 * sums[5]).all(), "the three steps of the default are near"


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
