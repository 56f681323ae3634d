"""The ablation switches: each model is whole without the part, and the part is really gone."""

import pytest
import torch

from amt.evaluate.collect import collect
from amt.evaluate.score import score
from amt.evaluate.tables import table
from amt.hand.mirror import mirror_inputs
from amt.hand.shipped import shipped_hand
from amt.kernels import hand_frames
from amt.model import AMT, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.mean_pose import MeanPose
from amt.train.losses import LossConfig, compute_loss
from tests.model.conftest import EVERY_PART

NUM_VERTICES = shipped_hand().num_vertices

WITHOUT = [
    {"refine_steps": 0},
    {"hand_frames": False},
    {"contact_tokens": False},
    {"pose_search": False},
    {"corners": False},
    {"backbone": {"residuals": [0, 0, 0, 2]}},
    {"hand_frames": False, "contact_tokens": False, "refine_steps": 0, "sigma": False},
    {"refine_shared": True},
    {"fusion_depth": 0},
    {"map_size": 16},
]


def build(**switches):
    torch.manual_seed(0)
    return AMT(ModelConfig(decoder_depth=1, **{**EVERY_PART, **switches}))


@pytest.mark.parametrize("switches", WITHOUT, ids=lambda s: " ".join(s))
def test_forward_loss_and_backward_without_a_part(switches, make_batch):
    """And no parameter is left over that nothing uses."""
    model, batch = build(**switches), make_batch(4, left=True)
    prediction = model(batch.inputs)
    for name, tensor in prediction.named_tensors():
        assert tensor.isfinite().all(), name
    loss = compute_loss(prediction, batch, LossConfig())
    assert loss.total.isfinite()
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("switches", WITHOUT, ids=lambda s: " ".join(s))
def test_a_mirrored_frame_is_still_the_mirrored_scene(switches, make_batch):
    model, inputs = build(**switches).eval(), make_batch(2).inputs
    which = torch.tensor([True, False])
    with torch.no_grad():
        p, q = model(inputs), model(mirror_inputs(inputs, which)).mirrored(which)
    assert (p.joints - q.joints).abs().max() < 1e-4
    torch.testing.assert_close(p.hand_contact, q.hand_contact, atol=1e-3, rtol=1e-3)


def test_without_steps_the_decoded_hand_is_the_answer(make_batch, tmp_path):
    model, batch = build(refine_steps=0).eval(), make_batch(3)
    with torch.no_grad():
        p = model(batch.inputs)
    assert p.steps.shape == (3, 0, 21, 3)
    assert torch.equal(p.joints, p.unrefined.joints)
    torch.testing.assert_close(p.vertices, p.unrefined.vertices, atol=1e-6, rtol=0)
    assert not list(model.refinement.parameters())
    mean_pose = MeanPose.of([batch])
    figures = score(*collect(model, [batch], mean_pose))
    assert figures["refined_wrist_aligned_mpjpe_mm"] == []
    assert figures["wrist_aligned_mpjpe_mm"] == figures["decoded_wrist_aligned_mpjpe_mm"]
    assert "before refinement" in table({"split": "s0", "subset": "val", "protocol": "V", "box": "true", **figures})
    again, _ = load_checkpoint(save_checkpoint(tmp_path / "checkpoint", model))
    with torch.no_grad():
        assert torch.equal(again(batch.inputs).joints, p.joints)


def record(module):
    """What the module was called with and returned, at its last call."""
    seen = {}
    module.register_forward_hook(lambda _, args, output: seen.update(args=args, output=output))
    return seen


def test_without_hand_frames_every_axis_is_the_view_s(make_batch):
    model, inputs = build(hand_frames=False).eval(), make_batch(2).inputs
    hand, contact, decoder = (record(m) for m in (model.hand_encoder, model.contact_encoder, model.hand_decoder))
    with torch.no_grad():
        p = model(inputs)
    origins, frames = hand_frames(p.coarse.joints)
    vertices, seen, view = hand["args"]
    torch.testing.assert_close(seen.origins, origins)  # the origins stay
    for rotations in (seen.rotations, contact["args"][1].rotations, decoder["args"][3]):
        torch.testing.assert_close(rotations, view[:, None].expand_as(frames))
    with torch.no_grad():
        moved = model.hand_encoder(vertices + 1.0, seen, view)  # the mesh is not looked at
    assert torch.equal(moved, hand["output"])


def test_without_contact_tokens_none_are_made(make_batch):
    model, inputs = build(contact_tokens=False).eval(), make_batch(2).inputs
    assert model.contact_encoder is None
    fused = record(model.fusion)
    with torch.no_grad():
        p = model(inputs)
    assert fused["args"][0].contact is None
    assert fused["output"].contact is None
    assert p.hand_contact.shape == (2, NUM_VERTICES)  # contact is still decoded, from hand tokens and distances
