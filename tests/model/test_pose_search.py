"""The pose search finds the pose whose points lie where the evidence says, whatever it starts from."""

from dataclasses import replace

import pytest
import torch

from amt.export.crops import made_crops, tensors
from amt.export.program import Flat, custom_ops, trace
from amt.hand.batch import Batch
from amt.hand.mirror import mirror_inputs, mirror_points, mirror_rotations
from amt.hand.rotations import geodesic_distance
from amt.model import AMT, ModelConfig
from amt.model.camera import CropCamera
from amt.model.outline import Outline, corners, reach_of
from amt.model.pose_search import (
    ROUNDS,
    TURNS,
    Evidence,
    PoseSearch,
    pose_scores,
    spread_rotations,
    thinned,
)
from amt.train.config import LossConfig
from amt.train.losses.training import compute_loss

SIDE = 28


@pytest.fixture(scope="module")
def box():
    """Points [1, 128, 3] (m) of a box of 6 x 9 x 15 cm and their normals."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(128, 3, generator=generator) * 2 - 1
    axis = torch.randint(0, 3, (128, 1), generator=generator)
    on = torch.arange(3) == axis
    points = torch.where(on, points.sign(), points)
    return (points * torch.tensor((0.03, 0.045, 0.075)))[None], torch.where(on, points, 0.0)[None]


@pytest.fixture(scope="module")
def camera():
    return CropCamera.of(torch.tensor([[[400.0, 0, 40], [0, 405, 70], [0, 0, 1]]]), 112)


def evidence_of(points, normals, rotation, translation, camera, scale=100.0):
    """What a perfect network says of a pose: each point that faces the camera has a bump where it is seen."""
    seen = points @ rotation.mT + translation[:, None]
    at = camera.project(seen)[0]
    facing = -(seen * (normals @ rotation.mT)).sum(-1)[0] > 0
    axis = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    far = (axis[None, :, None] - at[:, None, None, 1]) ** 2 + (axis[None, None] - at[:, None, None, 0]) ** 2
    return Evidence(torch.exp(-far / 0.02)[None] * facing[:, None, None] * scale, torch.zeros(1, 4, SIDE, SIDE))


def test_rotations_are_spread_evenly():
    turns = spread_rotations(TURNS)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(TURNS, 3, 3), atol=1e-6, rtol=0)
    asked = spread_rotations(1001)[::7]
    nearest = geodesic_distance(asked[:, None], turns[None]).amin(dim=1).rad2deg()
    assert nearest.max() < 30
    assert nearest.mean() < 19


@pytest.mark.parametrize("number", [3, 200, 401])
def test_the_true_rotation_is_found(box, camera, number):
    rotation, translation = spread_rotations(500)[number][None], torch.tensor([[0.03, 0.01, 0.6]])
    poses = searched(box, camera, rotation, translation, translation)
    assert poses.score.shape == (1, 1 + TURNS + sum(r.best * r.tries for r in ROUNDS))
    # the first round's nearest turn may be 30 degrees away
    assert geodesic_distance(poses.best()[0][:, 0], rotation).rad2deg() < 20


def test_later_rounds_move_the_object(box, camera):
    rotation, translation = spread_rotations(500)[200][None], torch.tensor([[0.03, 0.01, 0.6]])
    start = translation + torch.tensor([[0.02, -0.015, 0.03]])
    poses = searched(box, camera, rotation, translation, start)
    first, later = poses.score[:, : 1 + TURNS], poses.score[:, 1 + TURNS :]
    assert later.max() > first.max() + 1
    assert (poses.best()[1][:, 0] - translation).norm() < (start - translation).norm()


def test_an_outline_places_every_turn(box, camera):
    """From a start 5 cm aside, where without an outline the true turn is far from where it is seen."""
    rotation, translation = spread_rotations(TURNS)[200][None], torch.tensor([[0.03, 0.01, 0.6]])
    start = translation + torch.tensor([[0.05, -0.03, 0.06]])
    reach = reach_of(corners(box[0]), rotation[:, None], translation[:, None], camera)[:, 0]
    outline = Outline(reach, torch.full_like(reach, 0.02))
    found = [searched(box, camera, rotation, translation, start, known) for known in (outline, None)]
    (turn, place), (_, other_place) = (poses.best() for poses in found)
    assert geodesic_distance(turn[:, 0], rotation).rad2deg() < 5
    assert (place[:, 0] - translation).norm() < 0.005
    assert (other_place[:, 0] - translation).norm() > 0.02
    first = found[0].translation[:, 1 + 200]  # that turn is one of the first round's
    assert (first - translation).norm() < 0.003


def searched(box, camera, rotation, translation, start, outline=None):
    """The poses that are tried from ``start`` with perfect evidence of a pose."""
    search = PoseSearch(ModelConfig())
    maps = evidence_of(*box, rotation, translation, camera)
    search._maps = lambda fine, colours, known: replace(maps, **dict(zip(("outline", "corners"), known or ())))
    look = torch.cat((box[1], torch.ones(1, 128, 4)), dim=2)
    return search(torch.zeros(1, SIDE, SIDE, 64), box[0], look, torch.eye(3)[None], start, camera, outline)[0]


def test_a_mirrored_scene_has_the_same_scores(box, camera):
    rotation, translation = spread_rotations(40)[None], torch.tensor([0.03, 0.01, 0.6]).expand(1, 40, 3)
    generator = torch.Generator().manual_seed(1)
    maps = Evidence(
        torch.randn(1, 128, SIDE, SIDE, generator=generator), torch.randn(1, 4, SIDE, SIDE, generator=generator)
    )
    signs = torch.tensor([[[1.0, -1, -1], [1, 1, 1], [1, 1, 1]]])
    moved = torch.tensor([[[0.0, 0, 111], [0, 0, 0], [0, 0, 0]]])
    mirror = CropCamera.of(camera.intrinsics * signs + moved, 112)
    yes = torch.tensor([True])
    expected = pose_scores(maps, *box, rotation, translation, camera)
    mirrored = (mirror_points(box[0]), mirror_points(box[1]), mirror_rotations(rotation), mirror_points(translation))
    found = pose_scores(maps.mirrored(yes), *mirrored, mirror)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01


@pytest.fixture(scope="module")
def searching():
    """A small model that searches, with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return AMT(ModelConfig(pose_search=True, crop_size=48, map_size=12, decoder_depth=1, refine_steps=1)).eval()


def test_nothing_known_of_the_look_leaves_the_coarse_pose(searching, make_batch):
    model, inputs = searching, make_batch(2, crop=48).inputs
    look = inputs.object_look.clone()
    look[1] = 0
    with torch.no_grad():
        some, none = model(replace(inputs, object_look=look)), model(replace(inputs, object_look=None))
        every = model(inputs)
    torch.testing.assert_close(some.object_rotation[1], none.object_rotation[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(some.object_rotation[0], every.object_rotation[0], atol=1e-5, rtol=0)
    assert (some.object_rotation[0] - none.object_rotation[0]).abs().max() > 1e-2
    assert none.poses is None
    assert some.evidence is None


def test_the_answer_of_a_left_hand_is_the_mirrored_one(searching, make_batch):
    model, inputs = searching, make_batch(2, crop=48).inputs
    both = torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        right, left = model(inputs), model(mirror_inputs(inputs, both)).mirrored(both)
    torch.testing.assert_close(left.poses.best()[0], right.poses.best()[0], atol=1e-4, rtol=0)


def test_it_can_be_exported(searching):
    crops = tensors(made_crops(2, 48, 128, look=True))
    program = trace(searching, crops, dynamic=True)
    assert custom_ops(program) == []
    other = tensors(made_crops(3, 48, 128, look=True))
    assert len(program.module()(**other)["poses_score"]) == 3
    found = program.module()(**crops)
    with torch.inference_mode():
        expected = Flat(searching)(**crops)
    assert {"poses_score", "poses_rotation", "poses_translation"} <= set(found)
    torch.testing.assert_close(found["poses_score"], expected["poses_score"], atol=1e-3, rtol=1e-3)


def test_the_loss_is_lower_for_better_evidence_and_reaches_the_network(make_batch):
    torch.manual_seed(0)
    batch = make_batch(4, points=128, left=True)
    network = AMT(ModelConfig(pose_search=True)).train()
    prediction = network(batch.inputs)
    config = LossConfig(pose_search=1.0)
    torch.manual_seed(1)
    loss = compute_loss(prediction, batch, config)
    loss.total.backward()
    assert network.pose_search.cell.fc1.weight.grad.abs().sum() > 0
    assert network.pose_search.colour.fc1.weight.grad.abs().sum() > 0
    better = perfect(batch)
    torch.manual_seed(1)
    assert compute_loss(replace(prediction, evidence=better), batch, config).terms["pose_search"] < 0.8 * (
        loss.terms["pose_search"].detach()
    )


def perfect(batch: Batch) -> Evidence:
    t, inputs = batch.targets, batch.inputs
    points, normals = thinned(inputs.object_points), thinned(inputs.object_look)[..., :3]
    parts = []
    for k in range(len(batch.index)):
        one = slice(k, k + 1)
        camera = CropCamera.of(inputs.intrinsics[one], inputs.image.shape[-1])
        parts.append(
            evidence_of(points[one], normals[one], t.object_rotation[one], t.object_translation[one], camera, 10.0)
        )
    return Evidence(torch.cat([p.colour for p in parts]), torch.cat([p.surface for p in parts]))


def test_models_of_before_do_not_search():
    values = ModelConfig(pose_search=True).as_dict()
    assert ModelConfig.from_dict(values).pose_search
    del values["pose_search"]
    assert not ModelConfig.from_dict(values).pose_search
