"""Grasps of the synthetic writer hold what they grasp, and sink neither into it nor into themselves."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.grasp_types import TYPES
from amt.data.synthetic.grasps import find_grasp
from amt.data.synthetic.objects import built_in
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.skin import vertex_normals
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.shipped import shipped_hand
from tools.grasps import grasps

pytest.importorskip("embreex")


def test_grasps_touch_with_fingers_and_neither_sinks_into_the_other():
    """The object's depth in the hand tells of thin walls and edges, which no vertex of the hand is deep in."""
    found = grasps(10, seed=5)  # of ten classes, a bowl and a pitcher among them
    assert np.mean([q.fingers >= 3 for q in found if q.kind == "power"]) >= 0.9
    assert all(q.fingers >= 2 for q in found)
    assert np.mean([max(q.depth, q.back) for q in found]) <= 0.0015
    assert max(max(q.depth, q.back) for q in found) <= 0.003
    assert max(q.piercing for q in found) <= 0.002
    assert min(q.contacts for q in found) >= 15
    assert max(q.excess for q in found) <= 1
    assert np.mean([q.good for q in found]) >= 0.9


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_part_of_the_hand_is_posed_as_the_layer_poses_it(side):
    rng = np.random.default_rng(0)
    hand = Hand(shipped_hand(side), rng.normal(0, 1, 10))
    rotations = hand.rotations(rng.uniform(0, 1.2, (3, 5, 3)), rng.uniform(0.4, 1.4, 3), rng.uniform(-0.1, 0.1, (3, 5)))
    betas = torch.from_numpy(hand.betas).float().expand(3, -1)
    mesh = hand.layer(rotations, betas, torch.zeros(3, 3)).vertices
    torch.testing.assert_close(hand.posed(rotations, hand.whole), mesh, atol=1e-6, rtol=0)
    sampled = hand.posed(rotations, hand.sampled)
    assert cKDTree(mesh[0].numpy()).query(sampled[0].numpy())[0].max() < 1e-6
    assert set(hand.sampled.finger_of.tolist()) == {-1, 0, 1, 2, 3, 4}


@pytest.mark.parametrize("class_id", [3, 4])
def test_signed_distances_are_those_of_a_box_and_a_cylinder(class_id):
    shape = built_in(class_id)
    distance, points = SignedDistance.of(shape), np.random.default_rng(0).uniform(-1, 1, (4000, 3)) * shape.extent
    half = shape.extent / 2
    if class_id == 3:
        over = np.abs(points) - half
    else:
        radius = np.hypot(points[:, 0], points[:, 1])
        over = np.stack([radius - half[0], np.abs(points[:, 2]) - half[2] + 0.0015], 1)  # inside its rims
    true = np.linalg.norm(np.clip(over, 0, None), axis=1) + np.minimum(over.max(1), 0)
    error = np.abs(distance(points) - true)
    near = np.abs(true) < 0.01
    assert np.median(error[near]) < 0.0004
    assert np.quantile(error[near], 0.95) < 0.0015
    assert (np.sign(distance(points)) == np.sign(true))[np.abs(true) > 0.002].all()


@pytest.mark.parametrize(
    ("name", "class_id", "side"),
    [("power", 4, "right"), ("pinch", 8, "left"), ("tripod", 18, "right"), ("lateral", 18, "left")],
)
def test_a_grasp_is_of_the_type_that_it_says(name, class_id, side):
    """The fingertips that touch, those that do not, and the thumb's opposition, measured on the posed mesh."""
    rng, shape = np.random.default_rng(1), built_in(class_id)
    hand = Hand(shipped_hand(side), rng.normal(0, 0.7, 10))
    grasp = find_grasp(hand, shape, SignedDistance.of(shape), rng, kind=TYPES[name], rounds=12)
    assert (grasp.kind, grasp.good) == (name, True)
    rotations = axis_angle_to_matrix(torch.from_numpy(grasp.fingers.reshape(1, 15, 3)).float())
    rotations = torch.cat((torch.eye(3).expand(1, 1, 3, 3), rotations), 1)
    assert np.degrees(hand.excess(rotations).max()) <= 1, "of the joints' limits"
    own = hand.vertices(rotations)[0].astype(float)
    vertices = (own - hand.root) @ grasp.rotation.T + hand.root + grasp.translation
    points, normals = shape.surface_points(40_000, seed=3)
    length, nearest = cKDTree(points).query(vertices)
    touch = (length < 0.0048) | shape.inside(vertices)
    tips = {int(k) for k in hand.finger_of[touch & hand.outer]}
    fingers = {int(k) for k in hand.finger_of[touch]} - {-1}
    if name == "power":
        assert 0 in fingers
        assert len(fingers) >= 3
        assert (touch & ~hand.outer).sum() >= 5, "not with the fingertips alone"
        return
    thumb = normals[nearest[touch & (hand.finger_of == 0)]].mean(0)
    others = normals[nearest[touch & np.isin(hand.finger_of, [1, 2])]].mean(0)
    assert thumb @ others / np.linalg.norm(thumb) / np.linalg.norm(others) < -0.4, (
        "the thumb presses against the fingers"
    )
    assert 0 in tips
    if name == "lateral":
        assert 1 in fingers
        index = vertex_normals(own, hand.model.f)[touch & (hand.finger_of == 1)].mean(0)
        bent = rotations[0, 1].numpy() @ rotations[0, 2].numpy()  # MANO's index finger: base and middle joint
        assert (bent.T @ index) @ -hand.across > 0.3, "its side toward the thumb touches"
    else:
        assert tips == ({0, 1} if name == "pinch" else {0, 1, 2})
        assert fingers == tips
        assert not (touch & (hand.finger_of == -1)).any()
