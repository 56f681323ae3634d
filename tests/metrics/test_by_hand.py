"""Each metric on a case that is worked out by hand."""

import copy
import math

import pytest
import torch

import amt.metrics as metrics

IDENTITY = torch.eye(3)[None]
QUARTER = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])  # a quarter of a turn about z


def test_pck_and_auc():
    """Two samples of one joint, 0 and 25 mm off: half are within 0-25 mm, all from 25 mm on. Area: 0.5 x 25 + 1 x 25 of 50."""
    error = torch.tensor([[0.0], [25.0]])
    assert metrics.pck(error, torch.tensor([0.0, 24.9, 25.0, 50.0]))[:, 0].tolist() == [0.5, 0.5, 1, 1]
    limits = torch.linspace(0, 50, 50_001)
    assert metrics.auc(error, limits) == pytest.approx(0.75, abs=1e-5)
    assert metrics.auc(torch.zeros(3, 2)) == pytest.approx(1, abs=1e-12)
    assert metrics.auc(torch.full((3, 2), 50.1)) == 0


def test_a_missed_hand_is_the_stand_in():
    predicted, mean = torch.zeros(2, 1, 3), torch.full((2, 1, 3), 0.02)
    chosen = metrics.with_missed(predicted, torch.tensor([True, False]), mean)
    error = metrics.absolute_error_mm(chosen, torch.zeros(2, 1, 3))[:, 0]
    assert error.tolist() == pytest.approx([0, 20 * math.sqrt(3)], abs=1e-5)


def test_a_sample_that_is_not_finite_spoils_itself_alone():
    joints = torch.randn(3, 21, 3, generator=torch.Generator().manual_seed(0))
    broken = joints.clone()
    broken[1, 4, 0] = float("nan")
    error = metrics.procrustes_error_mm(broken, joints)
    assert error[1].isnan().all()
    assert error[[0, 2]].max() < 1e-4


def test_f_score():
    """Predicted: 0 and 100 mm. True: 4 and 8 mm. At 5 mm one of two each way lies near another: F = 1/2; at 1 mm none."""
    predicted, true = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0]]]), torch.tensor([[[0.004, 0, 0], [0.008, 0, 0]]])
    assert metrics.f_score(predicted, true, (1, 5, 15))[0].tolist() == pytest.approx([0, 0.5, 2 * 0.5 * 1 / 1.5])


def test_distances_of_objects():
    """A rod of two points at x = 0 and 0.1 m, moved by 30 mm along y: every point, the centre and every corner move by that."""
    true = torch.tensor([[[0.0, 0, 1], [0.1, 0, 1]]])
    moved = true + torch.tensor([0, 0.03, 0])
    assert float(metrics.add_mm(moved, true)) == pytest.approx(30, abs=1e-4)
    assert [float(v) for v in metrics.adds_mm(moved, true)] == pytest.approx([30, 30], abs=1e-4)
    assert float(metrics.mce_mm(moved, true)) == pytest.approx(30, abs=1e-4)
    assert float(metrics.oce_mm(torch.tensor([[0, 0, 1.01]]), torch.tensor([[0, 0, 1.0]]))) == pytest.approx(
        10, abs=1e-3
    )
    swapped = true.flip(1)  # the ends change places: ADD sees 100 mm, ADD-S nothing
    assert float(metrics.add_mm(swapped, true)) == pytest.approx(100, abs=1e-4)
    assert float(metrics.adds_mm(swapped, true)[0]) == 0


def test_a_quarter_of_a_turn():
    rod = torch.tensor([[0.1, 0, 0], [-0.1, 0, 0]])
    place = torch.tensor([[0.0, 0, 1]])
    assert float(metrics.rotation_error_deg(QUARTER, IDENTITY)) == pytest.approx(90)
    assert float(metrics.rotation_error_deg(QUARTER @ QUARTER, IDENTITY)) == pytest.approx(180)
    half = metrics.symmetry_rotations((("z", 180.0),))
    assert float(metrics.rotation_error_deg(QUARTER @ QUARTER, IDENTITY, half)) == pytest.approx(0, abs=1e-9)
    # The rod's ends are then 0.1 m along x and y: sqrt(2) x 100 mm from where they should be; in a picture with f = 500 px, 1 m
    # away, sqrt(2) x 50 px.
    poses = QUARTER, place, IDENTITY, place, rod
    assert float(metrics.mssd_mm(*poses)) == pytest.approx(100 * math.sqrt(2), abs=1e-4)
    k = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    assert float(metrics.mspd_px(*poses, k)) == pytest.approx(50 * math.sqrt(2), abs=1e-4)
    assert float(metrics.mssd_mm(*poses, metrics.symmetry_rotations((("z", 90.0),)))) == pytest.approx(0, abs=1e-4)


def test_visible_surface():
    """Three pixels: both poses there and 10 mm apart; the true one alone; both hidden by something 100 mm in front."""
    predicted, true = torch.tensor([[0.51, 0.0, 0.5]]), torch.tensor([[0.5, 0.5, 0.5]])
    scene = torch.tensor([[0.5, 0.5, 0.4]])
    found = metrics.vsd(predicted, true, scene, diameter=0.1, taus=(0.05, 0.2))
    assert found.tolist() == [1.0, 0.5]  # of two visible pixels: 0.1 diameters are too much for 0.05, not for 0.2


def test_contact():
    counts = metrics.contact_counts(torch.tensor([True, True, False, True]), torch.tensor([True, False, True, True]))
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert metrics.touching(torch.tensor([[False, False], [False, True]])).tolist() == [False, True]


def test_calibration():
    """Ten events said with 0.9, of which five come true: 0.4 off. Said with 0.5: right."""
    event = torch.tensor([True, False] * 5)
    assert metrics.reliability(torch.full((10,), 0.9), event).ece == pytest.approx(0.4)
    assert metrics.reliability(torch.full((10,), 0.5), event).ece == pytest.approx(0)
    # One coordinate of three lies beyond 0.7 scales, which half of Laplace's errors stay within.
    error, scale = torch.tensor([[[0.0, 0.006, 0.008]]]), torch.tensor([[0.01]])
    assert float(metrics.laplace_coverage(error, scale, torch.tensor([0.5]))) == pytest.approx(2 / 3)


def test_movement():
    """A hand that is accelerated by 2 mm a frame squared, predicted at rest, and one that is seen two frames late."""
    time = torch.arange(30.0)
    true = torch.zeros(30, 1, 3)
    true[:, 0, 0] = 0.001 * time**2
    assert metrics.acceleration_error_mm(torch.zeros_like(true), true).mean() == pytest.approx(2, abs=1e-3)
    wave = torch.zeros(60, 1, 3)
    wave[:, 0, 0] = torch.sin(torch.arange(60.0) / 5) * 0.1
    assert metrics.lag_frames(wave.roll(2, 0)[10:50], wave[10:50]) == pytest.approx(2, abs=0.02)
    assert metrics.lag_frames(wave.roll(-1, 0)[10:50], wave[10:50]) == pytest.approx(-1, abs=0.02)
    middle = (wave + wave.roll(1, 0)) / 2
    assert metrics.lag_frames(middle[10:50], wave[10:50]) == pytest.approx(0.5, abs=0.02)
    assert math.isnan(metrics.lag_frames(wave, torch.zeros_like(wave)))
    assert math.isnan(metrics.lag_frames(wave[:8], wave[:8]))


def test_sums_add_up():
    values = torch.arange(12.0).reshape(6, 2)
    whole, first, rest = metrics.Sums(), metrics.Sums(), metrics.Sums()
    whole.add("x", values)
    first.add("x", values[:1])
    rest.add("x", values[1:])
    rest.add("y", torch.tensor([1.0, 3.0]))
    first += rest
    assert first.mean("x") == whole.mean("x") == [5, 6]
    assert first.mean("y") == 2
    assert (first.count("x"), first.count("nothing")) == (6, 0)
    first.reduce()  # one process: as it was
    assert first.mean("x") == [5, 6]
    with pytest.raises(KeyError):
        whole.mean("y")
    with pytest.raises(ValueError, match=r"x: expected values \[N, \[2\]\], got \[4, 3\]"):
        whole.add("x", torch.zeros(4, 3))


def test_sums_over_ranks(monkeypatch):
    """Two ranks: each gets the sum of both, added up in the order of the ranks; one of them has a name that the other lacks."""
    ranks = [metrics.Sums(), metrics.Sums()]
    ranks[0].add("x", torch.tensor([1.0, 2.0]))
    ranks[1].add("x", torch.tensor([6.0]))
    ranks[1].add("y", torch.tensor([4.0]))
    sent = copy.deepcopy(ranks)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda found, mine: found.__setitem__(slice(None), sent)
    )
    for rank in ranks:
        rank.reduce()
        assert (rank.mean("x"), rank.count("x"), rank.mean("y")) == (3, 3, 4)


def test_sums_do_not_drown_small_values():
    """float32 would lose each of the ones beside 1e8."""
    sums = metrics.Sums()
    sums.add("x", torch.tensor([1e8]))
    for _ in range(9):
        sums.add("x", torch.ones(1))
    assert sums.mean("x") == (1e8 + 9) / 10
