"""Grasps of the synthetic writer hold what they grasp, and sink neither into it nor into themselves."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.objects import built_in
from amt.data.synthetic.person_hand import Hand
from amt.hand.shipped import shipped_hand
from tools.grasps import grasps

pytest.importorskip("embreex")


def test_grasps_touch_with_fingers_and_do_not_sink_in():
    found = grasps(10, seed=5)  # of ten classes
    assert np.mean([q.fingers >= 3 for q in found]) >= 0.9
    assert np.mean([q.depth for q in found]) <= 0.002
    assert max(q.depth for q in found) <= 0.005
    assert max(q.piercing for q in found) <= 0.002
    assert min(q.contacts for q in found) >= 15
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
