"""Terms beyond positions: rotations on SO(3), the object on SE(3), physics, contact's forms."""

import dataclasses
import math

import pytest
import torch

from amt.hand.limits import finger_frames
from amt.hand.mano import ManoLayer
from amt.hand.mirror import mirror_inputs
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.shipped import shipped_hand
from amt.model import AMT, ModelConfig
from amt.model.outputs import Hand
from amt.train.config import TERMS
from amt.train.losses import LossConfig, compute_loss
from amt.train.losses.contact import contact_term


@pytest.fixture(scope="module")
def scene(make_batch):
    torch.manual_seed(0)
    batch = make_batch(3)
    with torch.no_grad():
        return AMT(ModelConfig(decoder_depth=1)).eval()(batch.inputs), batch


def only(**weights):
    return LossConfig(**{**dict.fromkeys(TERMS, 0.0), **{k: v for k, v in weights.items() if k in TERMS}}, **{
        k: v for k, v in weights.items() if k not in TERMS
    })  # fmt: skip


def posed(prediction, batch, rotation, offset):
    """The prediction with the object rotated and moved from its true pose, and the true hand."""
    t = batch.targets
    changed = dataclasses.replace(
        prediction.decoded,
        joints=t.joints,
        object_rotation=t.object_rotation @ rotation,
        object_translation=t.object_translation + offset,
    )
    hand = Hand(t.joints, t.vertices)
    return dataclasses.replace(prediction, coarse=changed, decoded=changed, refined=hand, unrefined=hand)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 1.0, math.pi - 1e-3, math.pi - 1e-6, math.pi])
def test_the_geodesic_pose_is_the_angle_in_float32(scene, angle):
    prediction, batch = scene
    true = axis_angle_to_matrix(batch.targets.pose.unflatten(-1, (16, 3)))
    axis = torch.nn.functional.normalize(torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    pose = (true @ axis_angle_to_matrix(axis * angle)).requires_grad_()
    changed = dataclasses.replace(prediction.decoded, pose=pose)
    answer = dataclasses.replace(prediction, coarse=changed, decoded=changed)
    loss = compute_loss(answer, batch, only(pose=1.0))
    assert float(loss.terms["pose"]) * 3 == pytest.approx(angle, abs=1e-3)
    loss.total.backward()
    assert pose.grad.isfinite().all()
    assert pose.grad.norm() < 1


def test_the_object_s_pose_on_se3_is_angle_and_offset_together(scene):
    """Class 1 (a can with a label) is not symmetric: 0.6 rad and 5 cm are sqrt(0.2^2 + 0.5^2)."""
    prediction, batch = scene
    known = dataclasses.replace(batch, inputs=dataclasses.replace(batch.inputs, object_class=torch.ones(3).long()))
    answer = posed(prediction, batch, axis_angle_to_matrix(torch.tensor([0.0, 0.6, 0])), torch.tensor([0, 0, 0.05]))
    term = compute_loss(answer, known, only(object_pose=1.0)).terms["object_pose"]
    assert term == pytest.approx(math.hypot(0.2, 0.5), rel=1e-3)


def test_a_symmetric_object_is_compared_by_its_points(scene):
    """A brick rotated by half a turn is the same brick: by its class, or because the data say so."""
    prediction, batch = scene
    g = torch.Generator().manual_seed(0)
    half = torch.rand(3, 32, 3, generator=g) - 0.5
    turn = torch.diag(torch.tensor([-1.0, -1, 1]))
    points = torch.cat((half, half @ turn), dim=1) * 0.1
    answer = posed(prediction, batch, turn, torch.zeros(3))

    def term(kind, symmetric=None):
        inputs = dataclasses.replace(batch.inputs, object_points=points, object_class=torch.full((3,), kind))
        targets = dataclasses.replace(batch.targets, object_symmetric=symmetric)
        changed = dataclasses.replace(batch, inputs=inputs, targets=targets)
        return float(compute_loss(answer, changed, only(object_pose=1.0)).terms["object_pose"])

    assert term(21) < 1e-6  # foam brick
    assert term(0) < 1e-6  # an unknown object may be symmetric
    assert term(2) == pytest.approx(math.pi / 3, rel=1e-3)
    assert term(2, torch.ones(3, dtype=torch.bool)) < 1e-6
    assert term(21, torch.zeros(3, dtype=torch.bool)) == pytest.approx(math.pi / 3, rel=1e-3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_penetration_is_the_depth_of_points_inside_the_hand(scene, mirrored):
    """Points 3 mm below and above the skin of the palm's side, along the normals: only those below count, with 3 mm."""
    prediction, batch = scene
    layer = ManoLayer(shipped_hand())
    hand = layer(torch.zeros(3, 48), torch.zeros(3, 10), torch.tensor([0.0, 0, 0.5]).expand(3, 3))
    vertices, faces = hand.vertices, layer.faces
    corners = vertices[0][faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = torch.zeros(len(vertices[0]), 3).index_add(0, faces.flatten(), normal.repeat_interleave(3, 0))
    flat = torch.nn.functional.normalize(flat, dim=-1)
    palm = (layer.weights[:, 0] > 0.95).nonzero()[:40, 0]
    signs = torch.where(torch.arange(40) % 2 == 0, -1.0, 1.0)[:, None]
    points = (vertices[0, palm] + 0.003 * signs * flat[palm])[None].expand(3, -1, -1)
    inputs = dataclasses.replace(batch.inputs, object_points=points.contiguous())
    decoded = dataclasses.replace(
        prediction.decoded, object_rotation=torch.eye(3).expand(3, 3, 3), object_translation=torch.zeros(3, 3)
    )
    refined = Hand(hand.joints, vertices)
    which = torch.full((3,), mirrored)
    answer = dataclasses.replace(prediction, decoded=decoded, refined=refined).mirrored(which)
    changed = dataclasses.replace(batch, inputs=mirror_inputs(inputs, which))
    translation = answer.decoded.object_translation.clone().requires_grad_()
    answer = dataclasses.replace(answer, decoded=dataclasses.replace(answer.decoded, object_translation=translation))
    loss = compute_loss(answer, changed, only(penetration=1.0))
    assert float(loss.terms["penetration"]) * 0.1 == pytest.approx(0.003, rel=0.15)
    loss.total.backward()
    step = -0.002 * translation.grad[0] / translation.grad[0].norm()  # 2 mm down the gradient: out of the hand
    moved = dataclasses.replace(answer.decoded, object_translation=translation.detach() + step)
    better = compute_loss(dataclasses.replace(answer, decoded=moved), changed, only(penetration=1.0))
    assert better.terms["penetration"] < loss.terms["penetration"]


def test_joint_limits_are_0_for_a_flat_hand_and_not_for_fingers_bent_back(scene):
    prediction, batch = scene
    flat = torch.eye(3).expand(3, 16, 3, 3)

    def term(pose):
        changed = dataclasses.replace(prediction.decoded, pose=pose)
        answer = dataclasses.replace(prediction, coarse=changed, decoded=changed)
        return float(compute_loss(answer, batch, only(joint_limits=1.0)).terms["joint_limits"])

    assert term(flat) == 0
    flexion = torch.tensor(finger_frames(shipped_hand())[1, 2], dtype=torch.float32)  # the index finger's
    back = flat.clone()
    back[:, 1] = axis_angle_to_matrix(-1.2 * flexion)
    palm = flat.clone()
    palm[:, 1] = axis_angle_to_matrix(1.2 * flexion)
    assert term(back) > 0.04  # beyond 20 deg
    assert term(palm) < 1e-3


def test_the_focal_form_looks_away_from_what_is_certain(scene):
    """Certain and right answers cost (1 - p)^2 of what they cost in plain cross-entropy; wrong ones nearly as much."""
    _, batch = scene
    t = batch.targets
    hand, body = t.hand_contact.float() * 2 - 1, t.object_contact.float() * 2 - 1

    def term(certainty, form):
        answer = dataclasses.replace(scene[0], contact=type(scene[0].contact)(hand * certainty, body * certainty))
        return float(contact_term(answer, t, form))

    dice_only = term(3.0, "focal")
    assert dice_only < term(3.0, "balanced")
    assert term(-3.0, "focal") > 2.0
    assert term(30.0, "focal") < 1e-3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rotation", "quaternion", r"train\.loss\.rotation must be geodesic or matrix; got 'quaternion'"),
        ("contact_form", "dice", r"train\.loss\.contact_form must be balanced or focal; got 'dice'"),
        ("joints", True, r"train\.loss\.joints must be a number; got True"),
        ("joints", float("nan"), r"train\.loss\.joints must be finite; got nan"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(key, value, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**{key: value})


def test_visibility_counts_joints_inside_the_crop_where_it_is_labelled(scene):
    prediction, batch = scene
    assert compute_loss(prediction, batch, only(visibility=1.0)).terms["visibility"] == 0  # a set without such labels
    seen = torch.rand(3, 21, generator=torch.Generator().manual_seed(0)) > 0.5
    labels = dataclasses.replace(batch.targets, joint_visible=seen, visibility_valid=torch.tensor([True, True, False]))
    labelled = dataclasses.replace(batch, targets=labels)
    logits = torch.where(seen, 2.0, -2.0)
    logits[2] = -logits[2]  # the sample without labels
    logits[0, 0] = -logits[0, 0]
    answer = dataclasses.replace(prediction, joint_visible=logits.requires_grad_())
    loss = compute_loss(answer, labelled, only(visibility=1.0))
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert loss.terms["visibility"] == pytest.approx((41 * right + wrong) / 42, rel=1e-4)
    loss.total.backward()
    assert (logits.grad[2] == 0).all()
    assert (logits.grad[:2] != 0).all()


def test_the_variance_is_least_where_the_scale_is_the_mean_error(scene):
    """The likeliest b of Laplace errors is their mean; the term is never negative."""
    prediction, batch = scene
    error = torch.randn(3, 21, 3, generator=torch.Generator().manual_seed(0)) * 0.01
    refined = Hand(batch.targets.joints + error, prediction.vertices)
    own = torch.cat((error[:, :1], (error - error[:, :1])[:, 1:]), dim=1).abs().mean(dim=-1)
    terms = []
    for factor in (0.5, 0.9, 1.0, 1.1, 2.0):
        answer = dataclasses.replace(prediction, refined=refined, joint_scale=(own * factor).requires_grad_())
        loss = compute_loss(answer, batch, only(variance=1.0))
        terms.append(float(loss.terms["variance"]))
        loss.total.backward()
        if factor == 1.0:
            assert answer.joint_scale.grad.abs().max() < 1e-3 / own.min()
    assert min(terms) == terms[2] > 0
    smallest = torch.full((3, 21), 0.01 * math.exp(-4))
    exact = dataclasses.replace(
        prediction, refined=Hand(batch.targets.joints, prediction.vertices), joint_scale=smallest
    )
    assert float(compute_loss(exact, batch, only(variance=1.0)).terms["variance"]) == pytest.approx(0, abs=1e-5)


def test_a_variance_without_scales_is_refused(make_config):
    with pytest.raises(
        ValueError, match=r"train\.loss\.variance needs a model that gives scales: model\.joint_scale=true"
    ):
        make_config("run", loss=LossConfig(variance=1.0))


def test_the_chamfer_distance_and_its_gradient_are_those_of_all_pairs(scene):
    prediction, batch = scene

    def loss(term):
        rotation = prediction.decoded.object_rotation.clone().requires_grad_()
        changed = dataclasses.replace(prediction.decoded, object_rotation=rotation)
        term(dataclasses.replace(prediction, coarse=changed, decoded=changed)).backward()
        return rotation.grad

    def all_pairs(answer):
        points, t = batch.inputs.object_points, batch.targets
        rotated, wanted = points @ answer.decoded.object_rotation.mT, points @ t.object_rotation.mT
        distances = (rotated[:, :, None] - wanted[:, None]).norm(dim=-1)
        return (distances.amin(dim=1).mean() + distances.amin(dim=2).mean()) / 0.2

    ours = loss(lambda answer: compute_loss(answer, batch, only(object_points=1.0)).total)
    torch.testing.assert_close(ours, loss(all_pairs), atol=1e-5, rtol=1e-3)


def test_visibility_trains_its_head_and_nothing_else(make_batch):
    torch.manual_seed(0)
    model, batch = AMT(ModelConfig(decoder_depth=1)), make_batch(2)
    seen = torch.rand(2, 21) > 0.5
    labels = dataclasses.replace(batch.targets, joint_visible=seen, visibility_valid=torch.ones(2, dtype=torch.bool))
    loss = compute_loss(model(batch.inputs), dataclasses.replace(batch, targets=labels), only(visibility=1.0))
    loss.total.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("joint_states.")}
