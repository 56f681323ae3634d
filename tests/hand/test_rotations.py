"""Conversions between rotation forms, at the places where they usually break."""

import math

import pytest
import torch

from amt.hand.rotations import (
    axis_angle_to_matrix,
    geodesic_distance,
    matrix_to_axis_angle,
    matrix_to_six_d,
    six_d_to_matrix,
)


def random_axes(count=50, seed=0):
    axes = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return axes / axes.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, math.pi - 1e-4, math.pi - 1e-9])
def test_axis_angle_round_trip(angle):
    vectors = random_axes() * angle
    torch.testing.assert_close(matrix_to_axis_angle(axis_angle_to_matrix(vectors)), vectors, atol=1e-7, rtol=0)


def test_matrix_is_the_exponential():
    vectors = random_axes() * 2.0
    zero = torch.zeros(50, dtype=torch.float64)
    x, y, z = vectors.unbind(-1)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    torch.testing.assert_close(axis_angle_to_matrix(vectors), torch.linalg.matrix_exp(cross))


def test_at_pi_the_matrix_survives_the_round_trip():
    matrices = axis_angle_to_matrix(random_axes() * math.pi)
    back = matrix_to_axis_angle(matrices)
    torch.testing.assert_close(back.norm(dim=-1), torch.full((50,), math.pi, dtype=torch.float64))
    torch.testing.assert_close(axis_angle_to_matrix(back), matrices)


def test_six_d_round_trip_and_gram_schmidt():
    matrices = axis_angle_to_matrix(random_axes() * 2.5)
    six_d = matrix_to_six_d(matrices)
    assert torch.equal(six_d[:, :3], matrices[:, :, 0])
    assert torch.equal(six_d[:, 3:], matrices[:, :, 1])
    torch.testing.assert_close(six_d_to_matrix(six_d), matrices)
    # Any scale of the first vector, and any part of it added to the second, is the same rotation.
    same = torch.cat((3 * six_d[:, :3], 2 * six_d[:, 3:] - 0.7 * six_d[:, :3]), dim=-1)
    torch.testing.assert_close(six_d_to_matrix(same), matrices)
    assert matrix_to_six_d(torch.eye(3)).tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1.0, math.pi / 2, math.pi - 1e-6, math.pi])
def test_geodesic_distance_is_the_angle(angle):
    base = axis_angle_to_matrix(random_axes(seed=1) * 1.3)
    rotated = base @ axis_angle_to_matrix(random_axes(seed=2) * angle)
    expected = torch.full((50,), angle, dtype=torch.float64)
    torch.testing.assert_close(geodesic_distance(base, rotated), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("angle", [0.0, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_identity_and_at_pi(angle, dtype):
    axes = torch.cat((torch.eye(3, dtype=torch.float64), random_axes())).to(dtype)
    vectors = (axes * angle).requires_grad_()
    matrices = axis_angle_to_matrix(vectors)
    identity = torch.eye(3, dtype=dtype)
    for value in (
        matrices.square().sum() + matrices[..., 0, 1].sum(),
        matrix_to_axis_angle(matrices).sum(),
        six_d_to_matrix(matrix_to_six_d(matrices)).sum(),
        geodesic_distance(identity, matrices).sum(),
    ):
        (gradient,) = torch.autograd.grad(value, vectors, retain_graph=True)
        assert torch.isfinite(gradient).all()
    exact = identity.expand(4, 3, 3).clone().requires_grad_()
    geodesic_distance(identity, exact).sum().backward()
    assert torch.isfinite(exact.grad).all()


def test_a_six_d_of_zeros_is_finite():
    zero = torch.zeros(2, 6, requires_grad=True)
    matrices = six_d_to_matrix(zero)
    matrices.sum().backward()
    assert torch.isfinite(matrices).all()
    assert torch.isfinite(zero.grad).all()
