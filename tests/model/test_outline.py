"""The object's outline: how far it reaches, where an object of that outline must be, and how the head learns it."""

import math
from dataclasses import replace

import pytest
import torch

from amt.hand.mirror import mirror_points, mirror_rotations
from amt.model import AMT, ModelConfig
from amt.model.camera import CropCamera
from amt.model.outline import FARTHEST, Outline, OutlineHead, corners, placed, reach_of
from amt.model.pose_search import spread_rotations
from amt.train.losses import LossConfig, compute_loss

INTRINSICS = torch.tensor([[400.0, 3, 40], [0, 405, 70], [0, 0, 1]])
SIGNS = torch.tensor([[1.0, -1, -1], [1, 1, 1], [1, 1, 1]])


@pytest.fixture(scope="module")
def camera():
    return CropCamera.of(INTRINSICS[None], 112)


@pytest.fixture(scope="module")
def points():
    """[1, 200, 3], m, in a box of 6 x 9 x 15 cm whose middle is not the origin."""
    generator = torch.Generator().manual_seed(0)
    cube = torch.rand(1, 200, 3, generator=generator) - 0.5
    return cube * torch.tensor([0.06, 0.09, 0.15]) + torch.tensor([0.02, -0.01, 0.04])


def test_a_reach_is_the_largest_projection_on_a_direction(points, camera):
    rotation, translation = spread_rotations(3)[None], torch.tensor([[[0.0, 0, 0.6], [0.1, 0, 0.5], [0, -0.05, 0.9]]])
    reach = reach_of(points, rotation, translation, camera)
    for k in range(3):
        at = camera.project(points @ rotation[:, k].mT + translation[:, k])[0]
        for i in range(8):
            angle = i * math.pi / 4
            expected = (at[:, 0] * math.cos(angle) + at[:, 1] * math.sin(angle)).max()
            torch.testing.assert_close(reach[0, k, i], expected, atol=1e-5, rtol=0)


def test_an_object_of_known_rotation_is_placed_by_its_outline(points, camera):
    rotation = spread_rotations(50)[None]
    true = torch.tensor([[0.03, 0.01, 0.6]])
    reach = reach_of(points, rotation, true[:, None].expand(1, 50, 3), camera)
    outlines = Outline(reach[0], torch.full((50, 8), 0.01))
    near = (true + torch.tensor([[0.1, -0.1, 0.1]])).expand(50, 3)
    many = CropCamera.of(INTRINSICS.expand(50, 3, 3), 112)
    found = placed(points.expand(50, -1, -1), rotation[0][:, None], near, outlines, many)[:, 0]
    error = (found - true).norm(dim=1)
    assert error.median() < 2e-3
    assert error.max() < 0.01


def test_a_direction_that_is_not_known_does_not_count(points, camera):
    rotation, true = spread_rotations(7)[None, 3:4], torch.tensor([[0.03, 0.01, 0.6]])
    reach = reach_of(points, rotation, true[:, None], camera)[:, 0]
    scale = torch.full_like(reach, 0.02)
    reach[:, 0], scale[:, 0] = reach[:, 0] + 0.8, 2.0
    found = placed(points, rotation, true, Outline(reach, scale), camera)[:, 0]
    assert (found - true).norm() < 5e-3


@pytest.mark.parametrize("reach", [0.0, 50.0, -50.0])
def test_an_impossible_outline_gives_a_finite_place(points, camera, reach):
    near, rotation = torch.tensor([[0.0, 0, 0.6]]), spread_rotations(20)[None]
    outline = Outline(torch.full((1, 8), reach), torch.full((1, 8), 0.01))
    found = placed(points, rotation, near, outline, camera)
    assert found.isfinite().all()
    depth = (found[0] + (rotation[0] @ points[0].mean(dim=0)))[:, 2]
    assert (depth >= 0.3 - 1e-5).all()
    assert (depth <= 1.2 + 1e-5).all()


def test_a_mirrored_outline_is_that_of_the_mirrored_object(points, camera):
    rotation, translation = spread_rotations(4)[None], torch.tensor([0.03, 0.01, 0.6]).expand(1, 4, 3)
    moved = torch.tensor([[0.0, 0, 111], [0, 0, 0], [0, 0, 0]])
    mirror = CropCamera.of(INTRINSICS[None] * SIGNS + moved, 112)
    reach = reach_of(points, rotation, translation, camera)[0]
    turned = reach_of(mirror_points(points), mirror_rotations(rotation), mirror_points(translation), mirror)[0]
    found = Outline(reach, torch.ones(4, 8)).mirrored(torch.ones(4, dtype=torch.bool)).reach
    torch.testing.assert_close(found, turned, atol=1e-5, rtol=0)
    assert (found - reach).abs().max() > 0.1


def test_what_lies_far_outside_counts_alike():
    outline = Outline(torch.full((1, 8), FARTHEST), torch.full((1, 8), 0.1))
    assert torch.equal(outline.unlikeliness(torch.tensor([[[9.0] * 8, [2.0] * 8]])), torch.zeros(1, 2))
    assert outline.unlikeliness(torch.full((1, 1, 8), 1.5)).item() == pytest.approx(8 * 5)


def test_the_head_answers_where_its_map_peaks():
    torch.manual_seed(0)
    head = OutlineHead(ModelConfig(map_size=14))
    fine = torch.zeros(1, 14, 14, 64)
    fine[0, 3, 10] = head.score.weight[0].detach() * 500  # only the direction x is sure to answer
    with torch.no_grad():
        outline = head(fine)
    assert outline.reach[0, 0].item() == pytest.approx(10.5 * 2 / 14 - 1, abs=1e-3)
    torch.testing.assert_close(outline.scale, torch.full((1, 8), 0.2))


def test_the_loss_is_least_where_the_outline_is_true_and_trains_the_head(make_batch):
    torch.manual_seed(0)
    batch, config = make_batch(4, points=128, left=True), LossConfig(outline=1.0)
    model = AMT(ModelConfig(decoder_depth=1)).train()
    prediction = model(batch.inputs)
    loss = compute_loss(prediction, batch, config)
    (gradient,) = torch.autograd.grad(loss.total, model.outline.beside_and_scale, retain_graph=True)
    assert (gradient.abs().sum(dim=2) > 0).all()
    t, inputs = batch.targets, batch.inputs
    camera = CropCamera.of(inputs.intrinsics, inputs.image.shape[-1])
    few = corners(inputs.object_points)
    true = reach_of(few, t.object_rotation[:, None], t.object_translation[:, None], camera)[:, 0]
    values = []
    for scale in (0.01, 0.1):
        right = replace(prediction, outline=Outline(true.clamp(-FARTHEST, FARTHEST), torch.full((4, 8), scale)))
        values.append(float(compute_loss(right, batch, config).terms["outline"]))
    assert values[0] == pytest.approx(0, abs=1e-4)
    assert values[1] == pytest.approx(math.log(10), abs=1e-4)
    assert float(loss.terms["outline"]) > values[0]
