"""What must not change a metric, and what must, on points that hypothesis finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

import amt.metrics as metrics

NUMBERS = st.floats(-1, 1, allow_nan=False, width=32)
JOINTS = arrays(np.float64, (2, 21, 3), elements=NUMBERS).map(torch.from_numpy)
OFFSETS = arrays(np.float64, (3,), elements=NUMBERS).map(torch.from_numpy)
ROTATIONS = st.integers(0, 2**31).map(lambda seed: torch.from_numpy(Rotation.random(random_state=seed).as_matrix()))
quick = settings(max_examples=25, deadline=None, derandomize=True)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@quick
@given(JOINTS, JOINTS, OFFSETS, ROTATIONS)
def test_a_move_of_the_whole_scene_changes_no_error(a, b, offset, rotation):
    moved = [x @ rotation.T + offset for x in (a, b)]
    for error in (metrics.absolute_error_mm, metrics.wrist_aligned_error_mm, metrics.add_mm):
        same(error(*moved), error(a, b))
    for before, after in zip(metrics.adds_mm(a, b), metrics.adds_mm(*moved)):
        same(after, before)
    same(
        metrics.procrustes_error_mm(*moved).square().sum(1).sqrt(),
        metrics.procrustes_error_mm(a, b).square().sum(1).sqrt(),
    )


@quick
@given(JOINTS, JOINTS, OFFSETS, ROTATIONS, st.floats(0.5, 2))
def test_what_alignment_takes_out(a, b, offset, rotation, scale):
    same(metrics.wrist_aligned_error_mm(a + offset, b), metrics.wrist_aligned_error_mm(a, b))
    # A best rotation need not be the only one; the sum of squares that it leaves is.
    similar = scale * (a + 0.01 * torch.eye(21, 3).double()) @ rotation.T + offset
    left = metrics.procrustes_error_mm(similar, b).square().sum(1)
    torch.testing.assert_close(
        left, metrics.procrustes_error_mm(a + 0.01 * torch.eye(21, 3).double(), b).square().sum(1), rtol=1e-6, atol=1e-2
    )


@quick
@given(JOINTS, JOINTS)
def test_order_and_sides(a, b):
    order = torch.arange(20, -1, -1)
    same(metrics.f_score(a, b, (50, 300)), metrics.f_score(b, a, (50, 300)))
    same(metrics.f_score(a[:, order], b, (50, 300)), metrics.f_score(a, b, (50, 300)))
    for one, other in zip(metrics.adds_mm(a, b), metrics.adds_mm(a[:, order], b)):
        same(one, other)
    same(metrics.adds_mm(a, b)[0], metrics.adds_mm(b, a)[1])
    assert (metrics.adds_mm(a, b)[0] <= metrics.add_mm(a, b) + 1e-9).all()
    same(metrics.mce_mm(a, b), metrics.mce_mm(b, a))
    error = metrics.absolute_error_mm(a, b)
    assert metrics.auc(error) == pytest.approx(metrics.auc(error.flip(0)), abs=1e-12)
    assert (metrics.pck(error).diff(dim=0) >= 0).all()


@quick
@given(ROTATIONS, ROTATIONS, ROTATIONS, st.sampled_from([30.0, 90.0, 180.0]))
def test_rotations(a, b, common, degrees):
    a, b, common = a[None], b[None], common[None]
    error = metrics.rotation_error_deg(a, b)
    same(metrics.rotation_error_deg(common @ a, common @ b), error)
    same(metrics.rotation_error_deg(b, a), error)
    symmetries = metrics.symmetry_rotations((("z", degrees),))
    least = metrics.rotation_error_deg(a, b, symmetries)
    assert least <= error + 1e-9
    for turn in symmetries:  # a prediction that is turned by a symmetry is the same prediction
        same(metrics.rotation_error_deg(a @ turn, b, symmetries), least)


@quick
@given(arrays(np.float64, (40,), elements=st.floats(0, 1)), st.integers(0, 2**31))
def test_the_order_of_events_changes_no_calibration(p, seed):
    event = np.random.default_rng(seed).random(40) < p
    order = np.random.default_rng(seed + 1).permutation(40)
    one, other = (
        metrics.reliability(torch.from_numpy(p[k]), torch.from_numpy(event[k])).ece for k in (np.arange(40), order)
    )
    assert one == pytest.approx(other, abs=1e-9)
    assert 0 <= one <= 1


@quick
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 2**31))
def test_sums_do_not_depend_on_the_parts(sizes, seed):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(sum(sizes), 3)))
    whole, parts = metrics.Sums(), metrics.Sums()
    whole.add("x", values)
    for part in values.split(sizes):
        one = metrics.Sums()
        one.add("x", part)
        parts += one
    assert parts.mean("x") == pytest.approx(whole.mean("x"), abs=1e-12)
    assert parts.count("x") == sum(sizes)
