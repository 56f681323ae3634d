"""The loss on scenes whose errors are known."""

import dataclasses

import pytest
import torch
from torch import Tensor

from amt.hand.camera import project
from amt.hand.mirror import mirror_inputs, mirror_targets
from amt.hand.objects import box_corners
from amt.hand.shipped import shipped_hand
from amt.model import AMT, ModelConfig
from amt.model.outputs import Hand
from amt.model.scene import Scene, posed_points
from amt.train.losses import LossConfig, compute_loss, mean_where
from amt.train.losses.contact import dice

NUM_VERTICES = shipped_hand().num_vertices


@pytest.fixture(scope="module")
def scene(make_batch):
    torch.manual_seed(0)
    batch = make_batch(3, left=True)
    model = AMT(ModelConfig(refine_steps=3, corners=True)).eval()
    with torch.no_grad():
        return model(batch.inputs), batch


def perfect(prediction, batch):
    """A prediction that says what the labels say."""
    from amt.hand.rotations import axis_angle_to_matrix

    t = batch.targets
    pose = axis_angle_to_matrix(t.pose.unflatten(-1, (16, 3)))
    scene = Scene(t.joints, t.vertices, pose, t.betas, t.translation, t.object_rotation, t.object_translation)
    hand = Hand(t.joints, t.vertices)
    steps = t.joints[:, None].expand_as(prediction.steps)
    return dataclasses.replace(prediction, coarse=scene, decoded=scene, unrefined=hand, refined=hand, steps=steps)


def test_a_perfect_hand_and_object_cost_nothing(scene):
    prediction, batch = scene
    terms = compute_loss(perfect(prediction, batch), batch, LossConfig()).terms
    lengths = ("joints", "vertices", "projection", "depth", "object_translation", "object_points", "object_rotation")
    for name in (*lengths, "pose", "betas"):
        assert terms[name] < 1e-5, name


def test_a_known_offset_costs_what_it_should(scene):
    """Every finger joint 10 mm off along x, wrist in place: the mean of |10 mm| / 0.1 m over 20 of 21 joints and 1 of 3 axes.

    A refinement step weighs 1.2 against the coarse and the decoded hand.
    """
    prediction, batch = scene
    right = perfect(prediction, batch)
    moved = right.steps + torch.tensor([0.01, 0, 0])
    moved[:, :, 0] = right.steps[:, :, 0]
    terms = compute_loss(dataclasses.replace(right, steps=moved), batch, LossConfig()).terms
    steps = moved.shape[1]
    expected = 0.1 / 3 * 20 / 21 * 1.2 * steps / (1.2 * steps + 2)
    assert terms["joints"] == pytest.approx(expected, rel=1e-4)


def where_keypoints_belong(inputs, targets):
    corners = posed_points(box_corners(inputs.object_points), targets.object_rotation, targets.object_translation)
    points = torch.cat((targets.joints, targets.object_translation[:, None], corners), dim=1)
    half = inputs.image.shape[-1] / 2
    return (project(points, inputs.intrinsics) - (half - 0.5)) / half, (points[..., 2] - points[:, :1, 2]) / 0.1


def test_keypoints_in_their_places_cost_nothing_in_a_mirror_too(scene):
    """What is right of the mirrored scene is right of the scene once it is mirrored back, the box's corners included."""
    prediction, batch = scene
    everyone = torch.ones(3, dtype=torch.bool)
    position, depth = where_keypoints_belong(
        mirror_inputs(batch.inputs, everyone), mirror_targets(batch.targets, everyone)
    )
    placed = dataclasses.replace(prediction.keypoints, position=position, depth=depth)
    right = dataclasses.replace(prediction, keypoints=placed).mirrored(everyone)
    assert compute_loss(right, batch, LossConfig()).terms["keypoints"] < 1e-4
    order = [*range(22), *range(26, 30), *range(22, 26)]
    swapped = dataclasses.replace(right.keypoints, position=right.keypoints.position[:, order])
    wrong = dataclasses.replace(right, keypoints=swapped)
    assert compute_loss(wrong, batch, LossConfig()).terms["keypoints"] > 1e-2


def test_diversity_is_lost_by_a_mean_pose_and_not_by_the_labels(scene):
    prediction, batch = scene
    assert compute_loss(perfect(prediction, batch), batch, LossConfig(diversity=1.0)).terms["diversity"] < 1e-4
    mean = (batch.targets.joints - batch.targets.joints[:, :1]).mean(dim=0).expand(3, 21, 3)
    hand = Hand(mean.clone().requires_grad_(), prediction.vertices)
    collapsed = dataclasses.replace(prediction, refined=hand)
    loss = compute_loss(collapsed, batch, LossConfig(diversity=1.0))
    assert loss.terms["diversity"] > 0.9
    loss.total.backward()
    assert hand.joints.grad.isfinite().all()


def test_contact_overlap_counts_what_f1_counts():
    labels = torch.zeros(3, NUM_VERTICES, dtype=torch.bool)
    labels[:, :200] = True
    answers = torch.full((3, NUM_VERTICES), -30.0)
    answers[:, 100:200] = answers[:, 300:350] = 30.0  # 100 right, 50 wrong, 100 missed
    f1 = 2 * 100 / (150 + 200)
    assert dice(answers, labels, torch.ones(3, dtype=torch.bool)) == pytest.approx(1 - f1, abs=1e-3)


def test_every_refinement_step_is_supervised(scene):
    prediction, batch = scene
    steps = prediction.steps.clone().requires_grad_()
    compute_loss(dataclasses.replace(prediction, steps=steps), batch, LossConfig()).total.backward()
    assert (steps.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_samples_without_labels_do_not_count(scene):
    prediction, batch = scene
    nothing = torch.zeros(3, dtype=torch.bool)
    changed = dataclasses.replace(
        batch.targets,
        joints=batch.targets.joints.clone(),
        hand_valid=torch.tensor([True, False, True]),
        contact_valid=nothing,
        object_valid=nothing,
    )
    changed.joints[1] = 100.0
    kept = [0, 2]
    a = compute_loss(prediction, dataclasses.replace(batch, targets=changed), LossConfig()).terms
    b = compute_loss(prediction[kept], batch[kept], LossConfig()).terms
    assert a["joints"] == pytest.approx(float(b["joints"]), rel=1e-5)
    assert a["contact"] == a["object_points"] == a["object_translation"] == 0
    assert mean_where(torch.ones(3, 2), nothing) == 0


@pytest.mark.parametrize("owner", ["targets", "prediction"])
def test_sixteen_bit_metres_are_refused(scene, owner):
    """Mistake 3: at half a metre bf16 counts in steps of 4 mm."""
    prediction, batch = scene
    if owner == "targets":
        batch = dataclasses.replace(
            batch, targets=dataclasses.replace(batch.targets, joints=batch.targets.joints.bfloat16())
        )
    else:
        prediction = dataclasses.replace(prediction, refined=prediction.refined.map(Tensor.bfloat16))
    with pytest.raises(TypeError, match=rf"{owner}\.(refined\.)?joints must be float32, got torch\.bfloat16"):
        compute_loss(prediction, batch, LossConfig())


def test_under_autocast_a_millimetre_still_counts(scene):
    """Mistake 3, the other door: the loss leaves autocast before it subtracts, labels reach it in float32."""
    prediction, batch = scene
    right = perfect(prediction, batch)
    moved = dataclasses.replace(right, steps=right.steps + torch.randn_like(right.steps) * 1e-3)
    assert all(t.dtype != torch.bfloat16 for _, t in batch.to("cpu").targets.named_tensors())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compute_loss(moved, batch, LossConfig())
    outside = compute_loss(moved, batch, LossConfig())
    assert inside.total.dtype == torch.float32
    assert inside.terms["joints"] == pytest.approx(float(outside.terms["joints"]), rel=1e-5)


def test_a_round_object_may_rotate(scene):
    """A ball rotated about its centre is the same ball: the points' distance stays small, one by one they moved."""
    prediction, batch = scene
    g = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(3, 128, 3, generator=g), dim=-1) * 0.05
    batch = dataclasses.replace(batch, inputs=dataclasses.replace(batch.inputs, object_points=ball))
    right = perfect(prediction, batch)
    rotated = right.object_rotation @ torch.diag(torch.tensor([-1.0, -1, 1]))
    scene = dataclasses.replace(right.decoded, object_rotation=rotated)
    right = dataclasses.replace(right, coarse=scene, decoded=scene)
    terms = compute_loss(right, batch, LossConfig()).terms
    assert terms["object_points"] < 0.25 * terms["object_rotation"]


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"loss\.kl must not be negative; got -1"):
        LossConfig(kl=-1)
