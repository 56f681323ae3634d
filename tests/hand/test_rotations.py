"""Conversions between rotation forms, at the places where they usually break."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from amt.hand.rotations import (
    axis_angle_to_matrix,
    compose_axis_angles,
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


ANGLES = (
    0.0,
    1e-9,
    1.4e-8,
    1.6e-8,
    0.9e-6,
    1.1e-6,
    1e-4,
    0.009,
    0.011,
    0.27,
    0.29,
    1.0,
    3.0,
    math.pi - 1e-4,
    math.pi - 1e-9,
)


@pytest.fixture(scope="module")
def vectors():
    """Axis-angle vectors on both sides of every threshold, and along the axes: float64 [N, 3]."""
    axes = torch.cat((torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64), random_axes()))
    return torch.cat([angle * axes for angle in ANGLES])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_form_is_scipys(vectors, dtype):
    """To a few roundings of the type; at pi an axis and its opposite are the same rotation."""
    given = vectors.to(dtype)
    few = 8 * torch.finfo(dtype).eps
    truth = Rotation.from_rotvec(given.double().numpy())
    matrices = axis_angle_to_matrix(given)
    np.testing.assert_allclose(matrices.double().numpy(), truth.as_matrix(), atol=few, rtol=0)
    np.testing.assert_allclose(six_d_to_matrix(matrix_to_six_d(matrices)).double().numpy(), truth.as_matrix(), atol=few)
    back = matrix_to_axis_angle(torch.from_numpy(truth.as_matrix()).to(dtype)).double().numpy()
    assert (np.linalg.norm(back, axis=1) <= math.pi + few).all()
    assert (Rotation.from_rotvec(back) * truth.inv()).magnitude().max() < few
    other = given[torch.randperm(len(given), generator=torch.Generator().manual_seed(0))]
    both = compose_axis_angles(other, given).double().numpy()
    expected = Rotation.from_rotvec(other.double().numpy()) * truth
    assert (Rotation.from_rotvec(both) * expected.inv()).magnitude().max() < few
    assert (np.linalg.norm(both, axis=1) <= math.pi + few).all()


def test_composing_broadcasts_and_keeps_shapes(vectors):
    one, many = vectors[100], vectors[:24].reshape(4, 6, 3)
    assert torch.equal(compose_axis_angles(one, many), compose_axis_angles(one.expand(4, 6, 3), many))
    for convert, given in ((axis_angle_to_matrix, many), (matrix_to_axis_angle, axis_angle_to_matrix(many))):
        alone = torch.stack([torch.stack([convert(x) for x in row]) for row in given])
        torch.testing.assert_close(convert(given), alone, atol=1e-15, rtol=0)
        assert convert(given[:0]).shape == (0, *alone.shape[1:])


@pytest.mark.parametrize("angle", [1e-4, 0.009, 0.011, 1.0, 3.0, math.pi - 1e-3])
def test_gradients_are_the_differences(angle):
    axes = random_axes(6)
    vectors = (angle * axes).requires_grad_()
    other = (0.7 * random_axes(6, seed=3)).requires_grad_()
    assert torch.autograd.gradcheck(axis_angle_to_matrix, vectors)
    assert torch.autograd.gradcheck(matrix_to_axis_angle, axis_angle_to_matrix(vectors.detach()).requires_grad_())
    assert torch.autograd.gradcheck(compose_axis_angles, (vectors, other))
    assert torch.autograd.gradcheck(compose_axis_angles, (other, vectors))
    assert torch.autograd.gradcheck(
        six_d_to_matrix, matrix_to_six_d(axis_angle_to_matrix(vectors.detach())).requires_grad_()
    )


@pytest.mark.parametrize("angle", [0.0, 1e-12, 0.9e-6, 1e-4, 1.0, math.pi - 1e-3, math.pi - 1e-6])
def test_there_and_back_has_the_identity_as_jacobian(angle):
    for vector in random_axes(4) * angle:
        there = torch.autograd.functional.jacobian(lambda v: matrix_to_axis_angle(axis_angle_to_matrix(v)), vector)
        torch.testing.assert_close(there, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
        beside = torch.autograd.functional.jacobian(lambda v: compose_axis_angles(v, torch.zeros_like(v)), vector)
        torch.testing.assert_close(beside, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roma_has_the_same_rotations_and_gradients(vectors, dtype):
    roma = pytest.importorskip("roma")
    vectors = vectors[(vectors.norm(dim=1) == 0) | (vectors.norm(dim=1) > 1e-6)]  # below, roma's matrices are linear
    given = vectors.to(dtype).requires_grad_()
    matrices = axis_angle_to_matrix(vectors.to(dtype)).requires_grad_()
    six_d = torch.randn(50, 6, dtype=dtype, generator=torch.Generator().manual_seed(4)).requires_grad_()
    other = given.detach().flip(0)
    pairs = (
        (axis_angle_to_matrix, roma.rotvec_to_rotmat, given),
        (matrix_to_axis_angle, roma.rotmat_to_rotvec, matrices),
        (lambda v: compose_axis_angles(v, other), lambda v: roma.rotvec_composition((v, other), normalize=True), given),
        (six_d_to_matrix, lambda x: roma.special_gramschmidt(x.unflatten(-1, (2, 3)).mT), six_d),
    )
    for ours, theirs, at in pairs:
        one, two = ours(at), theirs(at)
        torch.testing.assert_close(one, two, atol=4 * torch.finfo(dtype).eps, rtol=0)
        weights = torch.randn(one.shape, dtype=dtype, generator=torch.Generator().manual_seed(5))
        gradients = [torch.autograd.grad((x * weights).sum(), at)[0] for x in (one, two)]
        torch.testing.assert_close(*gradients, atol=64 * torch.finfo(dtype).eps, rtol=64 * torch.finfo(dtype).eps)


def test_no_conversion_loads_a_compiler():
    """A look into sys.modules: torch._dynamo takes longer to load than all else that a program needs beside PyTorch."""
    code = """
import sys, torch
from amt.hand.rotations import *
v = torch.rand(4, 3)
six_d_to_matrix(matrix_to_six_d(axis_angle_to_matrix(matrix_to_axis_angle(axis_angle_to_matrix(compose_axis_angles(v, v))))))
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert not {"torch._dynamo", "torch._inductor", "roma", "sympy"} & set(ran.stdout.split())
