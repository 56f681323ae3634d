"""Every metric agrees with an independent second implementation to 1e-6, on random and on degenerate input."""

import numpy as np
import pytest
import second_opinion as second
import torch
from scipy.spatial.transform import Rotation

import amt.metrics as metrics

CASES = ("random", "far", "equal", "one point", "a line", "float32", "nothing moves")


def points(case, shape, seed):
    """float64 [..., 3], m."""
    x = np.random.default_rng(seed).normal(0, 0.05, (*shape, 3)) + np.array((0.1, 0, 0.8))
    if case == "far":
        x = x + np.array((3, -2, 40))
    if case == "one point":
        x[:] = x[:, :1]
    if case == "a line":
        x = x[..., :1] * np.array((1.0, 2, 3)) + (0, 0, 1)
    if case == "float32":
        x = x.astype(np.float32).astype(np.float64)
    if case == "nothing moves":
        x[:] = x[:1]
    return x


def pair(case, shape):
    a, b = points(case, shape, 1), points(case, shape, 2)
    return (a, a.copy()) if case == "equal" else (a, b)


def tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


def same(found, expected):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=1e-6)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def test_joints(case):
    a, b = pair(case, (7, 21))
    x, y = tensors(a, b)
    same(metrics.absolute_error_mm(x, y), second.absolute(a, b))
    same(metrics.wrist_aligned_error_mm(x, y), second.wrist_aligned(a, b))
    same(metrics.spread_ratio(x, y + 0.01 * x), second.spread(a, b + 0.01 * a))
    if case != "equal":  # an error of 0 is a matter of rounding there: below
        same(metrics.procrustes_error_mm(x, y), second.procrustes(a, b))
    assert metrics.procrustes_error_mm(x, x).max() < 1e-6


def test_shares_of_joints(case):
    a, b = pair(case, (7, 21))
    errors = second.wrist_aligned(a, b)
    limits = np.linspace(0, 50, 100)
    same(metrics.AUC_THRESHOLDS_MM, limits)
    same(metrics.pck(torch.from_numpy(errors)), second.pck(errors, limits))
    assert metrics.auc(torch.from_numpy(errors)) == pytest.approx(second.auc(errors, limits), abs=1e-6)


def test_surfaces(case):
    a, b = pair(case, (5, 60))
    x, y = tensors(a, b)
    same(metrics.f_score(x, y), np.stack([second.f_score(a, b, limit) for limit in (5, 15)], 1))
    broken = x.clone()
    broken[0, 0, 0] = float("nan")
    assert metrics.f_score(broken, y)[0].tolist() == [0, 0]
    same(metrics.add_mm(x, y), second.add(a, b))
    same(torch.stack(metrics.adds_mm(x, y)), second.adds(a, b))
    same(metrics.mce_mm(x, y), second.mce(a, b))
    same(metrics.oce_mm(x[:, 0], y[:, 0]), second.absolute(a[:, 0], b[:, 0]))


@pytest.mark.parametrize("symmetry", [(), (("z", 180.0),), (("x", 90.0), ("y", 180.0)), (("z", 0.0),)])
def test_poses(case, symmetry):
    found = metrics.symmetry_rotations(symmetry, steps=12)
    expected = [np.eye(3)]
    for axis, degrees in symmetry:
        turns = [
            Rotation.from_euler(axis, angle, degrees=True).as_matrix() for angle in np.arange(0, 360, degrees or 30)
        ]
        expected = [s @ turn for s in expected for turn in turns]
    same(found, expected)
    rng = np.random.default_rng(3)
    r, true_r = (Rotation.random(6, random_state=rng).as_matrix() for _ in range(2))
    t, true_t = (points("far" if case == "far" else "random", (6,), seed) for seed in (4, 5))
    model = points(case, (1, 30), 6)[0] - (0, 0, 0.8)
    if case == "equal":
        true_r, true_t = r, t
    arguments = tensors(r, t, true_r, true_t, model)
    k = np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]])
    true_r[0] = r[0] @ Rotation.from_euler("x", 180, degrees=True).as_matrix()  # half a turn
    same(metrics.rotation_error_deg(*tensors(r, true_r), found), second.rotation(r, true_r, expected))
    same(metrics.mssd_mm(*arguments, found), second.mssd(r, t, true_r, true_t, model, expected))
    model_near = np.clip(model, -0.2, 0.2)  # before the camera
    arguments[-1] = torch.from_numpy(model_near)
    same(
        metrics.mspd_px(*arguments, torch.from_numpy(k), found),
        second.mspd(r, t, true_r, true_t, model_near, k, expected),
    )


@pytest.mark.parametrize("kind", ["random", "nothing", "no depth", "the same", "apart"])
def test_visible_surfaces(kind):
    rng = np.random.default_rng(0)
    predicted, true, scene = (rng.uniform(0.5, 0.6, (12, 15)) * (rng.random((12, 15)) < 0.7) for _ in range(3))
    if kind == "nothing":
        predicted, true = np.zeros_like(true), np.zeros_like(true)
    if kind == "no depth":
        scene = np.zeros_like(scene)
    if kind == "the same":
        predicted = true
    if kind == "apart":
        predicted = np.where(true > 0, 0.0, 0.55)
    taus = np.arange(1, 11) * 0.05
    found = metrics.vsd(*tensors(predicted, true, scene), 0.2)
    same(found, second.vsd(predicted, true, scene, 0.2, 0.015, taus))


@pytest.mark.parametrize("shares", [(0.3, 0.3), (0, 0.5), (0.5, 0), (0, 0), (1, 1), (1, 0.2)])
def test_contact(shares):
    rng = np.random.default_rng(0)
    a, b = (rng.random((40, 30)) < share for share in shares)
    x, y = tensors(a, b)
    found = metrics.contact_counts(x, y)
    same([found.precision, found.recall, found.f1], second.counts(a, b))
    parts = sum((metrics.contact_counts(p, q) for p, q in zip(x.split(7), y.split(7))), metrics.Counts())
    assert parts == found
    same(metrics.touching(x), [row.sum() > 0 for row in a])


def test_the_best_constant_mask_by_search():
    """Over all 2^6 masks: none that is a threshold on the shares is better than the one found, and most are worse."""
    rng = np.random.default_rng(0)
    contact = rng.random((50, 6)) < np.array([0.05, 0.2, 0.35, 0.5, 0.7, 0.95])
    best = metrics.f1(metrics.best_constant_mask(torch.from_numpy(contact)).expand(50, 6), torch.from_numpy(contact))
    scores = []
    for number in range(64):
        mask = np.array([number >> k & 1 for k in range(6)], bool)
        scores.append(second.counts(np.broadcast_to(mask, contact.shape), contact)[2])
    assert best == pytest.approx(max(scores))


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_reliability(bins):
    rng = np.random.default_rng(0)
    p = np.concatenate((rng.random(500), (0, 1, 1, 0, 0.5)))
    event = rng.random(505) < p**2
    found = metrics.reliability(*tensors(p, event), bins)
    assert found.ece == pytest.approx(second.ece(p, event, bins), abs=1e-6)
    halves = metrics.reliability(*tensors(p[:99], event[:99]), bins) + metrics.reliability(
        *tensors(p[99:], event[99:]), bins
    )
    same(halves.count, found.count)
    assert halves.ece == pytest.approx(found.ece, abs=1e-12)
    assert int(found.count.sum()) == 505


def test_coverage_of_scales():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.001, 0.02, (4000, 21))
    error = rng.laplace(0, 1, (4000, 21, 3)) * scale[..., None]
    levels = np.arange(1, 10) / 10
    found = metrics.laplace_coverage(*tensors(error, scale)).mean(0)
    same(found, second.coverage(error, scale, levels))
    assert np.abs(np.asarray(found) - levels[:, None]).max() < 0.03  # Laplace's own errors keep the promise
    assert (np.asarray(metrics.laplace_coverage(*tensors(error, 2 * scale)).mean(0)) > np.asarray(found)).all()


def test_movement(case):
    a, b = pair(case, (20, 21))
    x, y = tensors(a, b)
    same(metrics.acceleration_error_mm(x, y), second.acceleration(a, b))
    same(metrics.acceleration_error_mm(x, y, fps=30), second.acceleration(a, b) * 900)
