"""Anatomical angles out of a pose, and how far they exceed the joints' limits."""

import math

import pytest
import torch

from amt.hand.limits import JointLimits, articulate, finger_frames, grasp_angles, limits
from amt.hand.mano import ManoLayer
from amt.hand.mirror import mirror_rotations
from amt.hand.rotations import axis_angle_to_matrix, six_d_to_matrix
from amt.hand.shipped import shipped_hand


@pytest.fixture(scope="module")
def measure():
    return JointLimits(ManoLayer(shipped_hand("right")))


def rotations(flexion, abduction=None, twist=None, side="right"):
    pose = articulate(flexion, abduction, twist, model=shipped_hand(side))
    return axis_angle_to_matrix(pose.unflatten(-1, (15, 3)))


def allowed_angles(count=500, seed=0):
    """Random angles inside the limits; first joints up to 85 deg."""
    generator = torch.Generator().manual_seed(seed)
    low_high = [bound.double() for bound in limits()]
    flexion, abduction, twist = (
        b[..., 0] + (b[..., 1] - b[..., 0]) * torch.rand(count, *b.shape[:-1], generator=generator, dtype=torch.float64)
        for b in low_high
    )
    flexion[..., 0] = flexion[..., 0].clamp(max=math.radians(85))
    return flexion, abduction, twist


def test_angles_are_the_inverse_of_articulate(measure):
    flexion, abduction, twist = allowed_angles()
    found = measure.double().angles(rotations(flexion, abduction, twist))
    torch.testing.assert_close(found[0], flexion, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], abduction, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[2][:, 0], twist, atol=1e-5, rtol=0)
    assert found[2][:, 1:].abs().max() < 1e-5


def test_a_hand_inside_its_limits_exceeds_nothing(measure):
    assert measure.float()(rotations(*allowed_angles()).float()).max() < 1e-5
    fist = rotations(*grasp_angles(torch.ones(1, 5)))
    assert measure.float()(fist).max() < 1e-5


@pytest.mark.parametrize(("finger", "joint", "degrees"), [(1, 0, -35.0), (1, 1, 125.0), (2, 2, 170.0), (0, 2, -40.0)])
def test_flexion_beyond_its_range_is_its_excess(measure, finger, joint, degrees):
    flexion = torch.zeros(1, 5, 3)
    flexion[0, finger, joint] = math.radians(degrees)
    low, high = (math.degrees(x) for x in limits()[0][finger, joint].tolist())
    expected = math.radians(max(degrees - high, low - degrees))
    excess = measure.float()(rotations(flexion))[0]
    mano_joint = 3 * (4, 0, 1, 3, 2)[finger] + joint  # MANO's order: index, middle, little, ring, thumb
    assert excess[mano_joint] == pytest.approx(expected, rel=1e-3)
    assert excess.sum() == pytest.approx(expected, rel=1e-3)


def test_abduction_twist_and_swing_are_seen(measure):
    measure = measure.float()
    abduction = torch.zeros(1, 5)
    abduction[0, 1] = math.radians(40)  # 22 deg too far
    assert measure(rotations(torch.zeros(1, 5, 3), abduction))[0, 0] == pytest.approx(math.radians(22), rel=1e-3)
    twist = torch.full((1,), math.radians(-120.0))  # 45 deg too far
    assert measure(rotations(torch.zeros(1, 5, 3), None, twist))[0, 12] == pytest.approx(math.radians(45), rel=1e-3)
    flat = rotations(torch.zeros(1, 5, 3))
    back = torch.tensor(finger_frames(shipped_hand())[1, 1], dtype=torch.float32)
    flat[0, 1] = axis_angle_to_matrix(math.radians(50) * back)  # a hinge bent sideways
    assert measure(flat)[0, 1] == pytest.approx(math.radians(35), abs=0.05)


@pytest.mark.parametrize("kind", ["identity", "90 deg", "180 deg", "random", "zeros"])
def test_the_gradient_is_finite_everywhere(measure, kind):
    six_d = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(4, 15, 1)
    if kind == "90 deg":
        flexion = torch.zeros(4, 5, 3)
        flexion[..., 0] = math.pi / 2
        matrices = rotations(flexion)
        six_d = matrices[..., :2].mT.flatten(-2)
    elif kind == "180 deg":
        six_d = torch.tensor([-1.0, 0, 0, 0, -1, 0]).repeat(4, 15, 1)
    elif kind == "random":
        six_d = torch.randn(4, 15, 6, generator=torch.Generator().manual_seed(0))
    elif kind == "zeros":
        six_d = torch.zeros(4, 15, 6)
    six_d.requires_grad_()
    excess = measure.float()(six_d_to_matrix(six_d))
    excess.sum().backward()
    assert excess.isfinite().all()
    assert six_d.grad.isfinite().all()


def test_a_step_down_the_gradient_bends_a_joint_back(measure):
    flexion = torch.full((1, 5, 3), math.radians(140.0)).requires_grad_()
    measure.float()(rotations(flexion)).sum().backward()
    assert (flexion.grad[..., 1:] > 0.9).all()


def test_a_left_hand_is_measured_in_the_mirror(measure):
    angles = grasp_angles(torch.rand(4, 5, generator=torch.Generator().manual_seed(4)), 0.5, 0.7)
    beyond = (angles[0] + 1.0, angles[1], angles[2])
    right, left = rotations(*beyond), rotations(*beyond, side="left")
    torch.testing.assert_close(measure.float()(mirror_rotations(left)), measure.float()(right), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="layer: expected a right hand's; mirror a left hand's poses"):
        JointLimits(ManoLayer(shipped_hand("left")))
