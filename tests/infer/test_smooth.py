"""The one-euro filter: less jitter than what it is given, little lag where a hand moves, and a hand that stays in one piece."""

from dataclasses import replace

import numpy as np
import pytest

from amt.infer.smooth import BETA, LONGEST_GAP, MIN_CUTOFF, HandFilter, OneEuro

RATE = 30.0  # frames/s


def acceleration_error(points, truth):
    """Mean distance of second differences [T, ..., 3], as in Kanazawa et al. (2019)."""
    return float(np.linalg.norm(np.diff(points - truth, n=2, axis=0), axis=-1).mean())


def filtered(points, **settings):
    smooth = OneEuro(**settings)
    return np.stack([smooth(point, k / RATE) for k, point in enumerate(points)])


def motion(frames=150, noise=0.004, seed=0):
    """A hand that is carried 30 cm to and fro, and what a model sees of it with noise of 4 mm, m."""
    t = np.arange(frames) / RATE
    path = 0.15 * np.stack([np.sin(2 * np.pi * 0.5 * t), np.cos(2 * np.pi * 0.3 * t), np.sin(2 * np.pi * 0.2 * t)], 1)
    truth = path[:, None] + np.random.default_rng(5).normal(0, 0.05, (21, 3))
    return truth, truth + np.random.default_rng(seed).normal(0, noise, truth.shape)


def test_jitter_and_error_are_less_than_those_of_single_frames():
    truth, seen = motion()
    smooth = filtered(seen)
    assert acceleration_error(smooth, truth) < 0.7 * acceleration_error(seen, truth)
    assert np.linalg.norm(smooth - truth, axis=-1)[5:].mean() < 1.1 * np.linalg.norm(seen - truth, axis=-1).mean()


def test_a_hand_at_rest_trembles_less_still():
    truth = np.zeros((150, 21, 3))
    seen = truth + np.random.default_rng(0).normal(0, 0.002, truth.shape)
    assert acceleration_error(filtered(seen), truth) < 0.3 * acceleration_error(seen, truth)


@pytest.mark.parametrize("speed", [0.1, 0.5, 2.0])
def test_the_lag_is_what_the_formula_says(speed):
    """A ramp of ``speed`` m/s without noise lags one step of the filter's time constant behind."""
    t = np.arange(120) / RATE
    ramp = speed * t[:, None] * np.array([[0.6, 0.8, 0.0]])
    behind = np.linalg.norm(ramp - filtered(ramp), axis=1)[-1] / speed
    share = 1 - np.exp(-2 * np.pi * (MIN_CUTOFF + BETA * speed) / RATE)
    assert behind == pytest.approx((1 - share) / share / RATE, rel=0.02)
    assert behind < 1 / (2 * np.pi * (MIN_CUTOFF + BETA * speed))


def test_axes_do_not_matter():
    _, seen = motion()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(filtered(seen @ turn.T), filtered(seen) @ turn.T, atol=1e-12)


def test_after_a_gap_it_begins_anew():
    smooth = OneEuro()
    smooth(np.zeros(3), 0.0)
    assert smooth(np.full(3, 0.01), LONGEST_GAP + 0.1).tolist() == [0.01] * 3
    assert (smooth(np.zeros(3), LONGEST_GAP + 0.15) > 0).all()


def test_what_is_not_finite_passes_and_is_not_remembered():
    smooth = OneEuro()
    smooth(np.ones(3), 0.0)
    assert np.isnan(smooth(np.full(3, np.nan), 0.1)).all()
    assert np.isfinite(smooth(np.ones(3), 0.2)).all()


def test_a_hand_stays_in_one_piece(result):
    """Joints, mesh and object follow the wrist, and the pixels are where the joints project."""
    smooth, rng = HandFilter(), np.random.default_rng(0)
    for k in range(20):
        step = rng.normal(0, 0.005, 3).astype(np.float32)
        moved = {
            name: getattr(result, name) + step
            for name in ("joints", "vertices", "mano_joints", "mano_vertices", "translation")
        }
        out = smooth(replace(result, **moved, object_translation=result.object_translation + step), k / RATE)
        np.testing.assert_allclose(out.vertices - out.joints[0], result.vertices - result.joints[0], atol=1e-5)
        np.testing.assert_allclose(out.joints - out.joints[0], result.joints - result.joints[0], atol=1e-5)
        np.testing.assert_allclose(
            out.object_translation - out.joints[0], result.object_translation - result.joints[0], atol=1e-5
        )
        np.testing.assert_allclose(out.mano_joints - out.joints[0], result.mano_joints - result.joints[0], atol=1e-5)
        seen = out.joints @ np.asarray(out.intrinsics, np.float32).T
        np.testing.assert_allclose(out.joints_2d, seen[:, :2] / seen[:, 2:], atol=1e-2)
        assert out.joints.dtype == result.joints.dtype
