"""Metrics on errors that are known beforehand."""

import math

import pytest
import torch

from amt.hand.contact import CONTACT_DISTANCE, contact_labels
from amt.hand.rotations import axis_angle_to_matrix
from amt.metrics import (
    absolute_error_mm,
    adds_mm,
    best_constant_mask,
    f1,
    procrustes_error_mm,
    spread_ratio,
    wrist_aligned_error_mm,
)


@pytest.fixture
def joints():
    return torch.randn(6, 21, 3, generator=torch.Generator().manual_seed(0)) * 0.05 + torch.tensor([0.1, 0, 0.8])


def test_ten_millimetres_are_ten(joints):
    """Mistake 4: metres in, millimetres out. 10 mm must be neither 0.01 nor 10,000."""
    moved = joints + torch.tensor([0.0, 0.006, 0.008])
    torch.testing.assert_close(
        absolute_error_mm(moved, joints), torch.full((6, 21), 10.0, dtype=torch.float64), atol=1e-3, rtol=0
    )
    assert wrist_aligned_error_mm(moved, joints).max() < 1e-3
    assert procrustes_error_mm(moved, joints).max() < 1e-3
    fingers = joints.clone()
    fingers[:, 1:] += torch.tensor([0.01, 0, 0])
    assert wrist_aligned_error_mm(fingers, joints)[:, 1:].mean() == pytest.approx(10.0, abs=1e-3)
    both = adds_mm(joints[:, :1] + torch.tensor([0.01, 0, 0]), joints[:, :1])
    assert [float(value.mean()) for value in both] == pytest.approx([10.0, 10.0], abs=1e-3)


def test_contact_thresholds_are_metres():
    """Mistake 4 again: at 5 mm a hand 4 mm away touches and one 6 mm away does not; 5 (mm taken for m) is refused."""
    assert CONTACT_DISTANCE == 0.005
    vertices = torch.zeros(1, 1, 3)
    near, far = torch.tensor([[[0.004, 0, 0]]]), torch.tensor([[[0.006, 0, 0]]])
    assert contact_labels(vertices, near)[0].all()
    assert not contact_labels(vertices, far)[0].any()
    with pytest.raises(ValueError, match="expected metres"):
        contact_labels(vertices, near, 5.0)


def test_procrustes_takes_out_rotation_size_and_place_but_not_shape(joints):
    rotation = axis_angle_to_matrix(torch.tensor([0.3, -1.0, 2.0]))
    similar = 1.7 * joints @ rotation.T + torch.tensor([0.1, 0.2, -0.3])
    assert procrustes_error_mm(similar, joints).max() < 1e-3
    reflected = joints * torch.tensor([-1.0, 1, 1])
    assert procrustes_error_mm(reflected, joints).max() < 1e-3  # as DexYCB's own evaluation has it
    bent = joints.clone()
    bent[:, 8] += 0.02
    error = procrustes_error_mm(bent, joints).square().sum(dim=1)
    shift = (bent - joints).double()
    placed_only = (shift - shift.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)) * 1e6
    assert ((error > 0) & (error <= placed_only)).all()


def test_procrustes_of_all_joints_in_one_place_is_finite(joints):
    assert procrustes_error_mm(torch.zeros_like(joints), joints).isfinite().all()


def test_the_two_forms_of_adds_differ_as_they_should():
    """True points: 0 and 1 m. Predicted: both at 0. Each predicted one is on a true one; a true one is 1 m from any predicted."""
    true = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    first, second = adds_mm(torch.zeros(1, 2, 3), true)
    assert float(first) == 0
    assert float(second) == pytest.approx(500.0)


def test_f1_by_hand():
    true = torch.tensor([True, True, True, False, False])
    said = torch.tensor([True, False, False, True, False])
    assert f1(said, true) == pytest.approx(2 * 1 / (2 + 3))
    assert f1(true, true) == 1
    assert f1(torch.zeros(5, dtype=torch.bool), true) == 0
    assert f1(torch.zeros(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)) == 0


def test_spread_is_zero_for_the_mean_one_for_the_truth_and_blind_to_place(joints):
    assert spread_ratio(joints.mean(dim=0).expand_as(joints), joints).max() < 1e-5
    torch.testing.assert_close(spread_ratio(joints, joints), torch.ones(20, dtype=torch.float64))
    place = torch.randn(6, 1, 3)
    torch.testing.assert_close(
        spread_ratio(joints + place, joints), torch.ones(20, dtype=torch.float64), atol=1e-4, rtol=0
    )
    wide = joints[:, :1] + 2 * (joints - joints[:, :1])
    assert spread_ratio(wide, joints).mean() == pytest.approx(2.0)
    assert math.isfinite(float(spread_ratio(joints[:1], joints[:1]).mean()))


def test_the_constant_contact_is_the_best_of_its_kind():
    torch.manual_seed(0)
    contact = (torch.rand(200, 30) < torch.linspace(0, 0.9, 30)).float()
    best = f1(best_constant_mask(contact).expand(200, 30), contact.bool())
    yes = f1(torch.ones(200, 30, dtype=torch.bool), contact.bool())
    assert best > yes
