"""The stand-in hand is a sound model in MANO's format, and the size of a hand."""

import numpy as np
import pytest

from amt.hand.limits import finger_frames
from amt.hand.skeleton import (
    BONES,
    FINGER_JOINTS,
    FINGERS,
    JOINT_NAMES,
    MANO_FINGER_JOINTS,
    MANO_PARENTS,
    MANO_TO_SKELETON,
    PARENTS,
    TIP_VERTICES,
    TIPS,
)
from amt.hand.stand_in import stand_in_hand

SIDES = pytest.mark.parametrize("side", ["right", "left"])


def shaped(model, k=None, amount=0.0):
    return model.v_template + (model.shapedirs[:, :, k] * amount if k is not None else 0)


def corners(model, vertices):
    return (vertices[model.f[:, i]].astype(np.float64) for i in range(3))


def volume(model, vertices):
    a, b, c = corners(model, vertices)
    return np.einsum("fc,fc->f", a, np.cross(b, c)).sum() / 6


@SIDES
def test_mesh_is_closed_wound_outward_and_has_no_degenerate_face(side):
    model = stand_in_hand(side)
    directed = np.concatenate([model.f[:, [i, (i + 1) % 3]] for i in range(3)])
    edges, counts = np.unique(directed, axis=0, return_counts=True)
    assert (counts == 1).all()
    assert {tuple(e) for e in edges} == {(b, a) for a, b in edges}, "every edge is walked once each way"
    assert len(model.f) == 1552
    assert set(model.f.ravel()) == set(range(778))
    a, b, c = corners(model, model.v_template)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    assert areas.min() > 0.2e-6
    assert 250e-6 < volume(model, model.v_template) < 450e-6


@SIDES
def test_weights_and_regressor_rows_sum_to_one(side):
    model = stand_in_hand(side)
    for rows in (model.weights, model.J_regressor):
        assert rows.min() >= 0
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-12)
    assert ((model.weights > 0).sum(1) <= 6).all()
    assert (model.weights.max(0) > 0.8).all(), "every joint owns vertices"


def test_weights_are_smooth_over_the_mesh():
    model = stand_in_hand()
    edges = np.concatenate([model.f[:, [i, (i + 1) % 3]] for i in range(3)])
    length = np.linalg.norm(model.v_template[edges[:, 0]] - model.v_template[edges[:, 1]], axis=1)
    step = np.abs(model.weights[edges[:, 0]] - model.weights[edges[:, 1]]).max(1)
    assert (step / length).max() < 150, "at most 0.15 a millimetre"


@SIDES
def test_tips_are_the_far_ends_of_their_fingers(side):
    model = stand_in_hand(side)
    for i, finger in enumerate(FINGERS):
        along = finger_frames(model)[i, 0]
        own = model.weights[:, MANO_FINGER_JOINTS[finger][2]] > 0.5
        reach = np.where(own, model.v_template @ along, -np.inf)
        tip = TIP_VERTICES[side][i]
        assert own[tip]
        assert reach[tip] > reach.max() - 0.5e-3


def test_it_is_the_size_and_layout_of_a_hand():
    model = stand_in_hand()
    joints = model.J_regressor @ model.v_template
    wrist, tips = joints[0], model.v_template[list(TIP_VERTICES["right"])]
    reach = np.linalg.norm(tips - wrist, axis=1)
    assert 0.18 < reach[2] < 0.19
    assert reach.argmax() == 2
    assert np.abs(wrist).max() > 0.05, "J0 is not the origin, as in MANO"
    assert (tips[1:, 0] < wrist[0] - 0.12).all(), "fingers along -x"
    assert tips[0, 2] > tips[1, 2] > tips[2, 2] > tips[3, 2] > tips[4, 2], "thumb toward +z"
    assert np.ptp(model.v_template[:, 1]) < 0.06, "flat"
    # Palm down: the thumb, and the pads of the palm, lie below the wrist.
    assert tips[0, 1] < wrist[1] - 0.01


@pytest.mark.parametrize("k", range(10))
def test_every_shape_direction_keeps_a_hand_at_two_sigma(k):
    model = stand_in_hand()
    base = model.v_template
    for amount in (-2.0, 2.0):
        vertices = shaped(model, k, amount)
        joints = model.J_regressor @ vertices
        length = np.linalg.norm(vertices[TIP_VERTICES["right"][2]] - joints[0])
        assert 0.155 < length < 0.215
        assert 0.6 < volume(model, vertices) / volume(model, base) < 1.5
        a, b, c = corners(model, vertices)
        old_a, old_b, old_c = corners(model, base)
        normal, old = np.cross(b - a, c - a), np.cross(old_b - old_a, old_c - old_a)
        cosine = (normal * old).sum(1) / np.linalg.norm(normal, axis=1) / np.linalg.norm(old, axis=1)
        assert cosine.min() > 0, "no face turns over"
        assert np.quantile(cosine, 0.01) > 0.7
    moved = np.linalg.norm(model.shapedirs[:, :, k], axis=1).max()
    assert 0.5e-3 < moved < 15e-3


def test_shape_directions_are_independent():
    flat = stand_in_hand().shapedirs.reshape(-1, 10).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=0)
    assert np.abs(flat.T @ flat - np.eye(10)).max() < 1e-5


@SIDES
def test_pose_space_is_orthonormal(side):
    components = stand_in_hand(side).hands_components.astype(np.float64)
    np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-6)


def test_left_is_right_in_the_mirror():
    right, left = stand_in_hand("right"), stand_in_hand("left")
    order = np.arange(778)
    order[[444, 445]] = 445, 444
    assert np.array_equal(left.v_template[order], right.v_template * (-1, 1, 1))
    assert np.array_equal(left.weights[order], right.weights)
    assert volume(left, left.v_template) == pytest.approx(volume(right, right.v_template))
    assert TIP_VERTICES["left"][2] == 445


def test_it_is_loaded_once_and_cannot_be_changed():
    assert stand_in_hand("right") is stand_in_hand("right")
    with pytest.raises(ValueError, match="read-only"):
        stand_in_hand().v_template[0] = 0
    with pytest.raises(ValueError, match="side: expected"):
        stand_in_hand("both")


def test_skeleton_tables_agree_with_each_other():
    assert MANO_TO_SKELETON == (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
    assert len(JOINT_NAMES) == len(PARENTS) == 21
    assert len(BONES) == 20
    for i, finger in enumerate(FINGERS):
        assert all(JOINT_NAMES[j].startswith(finger) for j in FINGER_JOINTS[finger])
        assert tuple(MANO_TO_SKELETON[j] for j in FINGER_JOINTS[finger][:3]) == MANO_FINGER_JOINTS[finger]
        assert MANO_TO_SKELETON[TIPS[i]] == 16 + i
    for joint, source in enumerate(MANO_TO_SKELETON):
        if 0 < source < 16:
            assert MANO_TO_SKELETON[PARENTS[joint]] == MANO_PARENTS[source]
