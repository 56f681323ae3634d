"""Missing labels: their terms are 0, their gradients finite, and what stands in a masked field reaches nothing."""

import dataclasses

import pytest
import torch

from amt.model import AMT, ModelConfig
from amt.model.pose_search import Evidence
from amt.train.config import TERMS
from amt.train.losses import LossConfig, compute_loss

EVERY_TERM = {name: 1.0 for name in TERMS}
HAND_LABELS = ("joints", "pose", "betas", "translation", "vertices")
OBJECT_LABELS = ("object_rotation", "object_translation")
HAND_TERMS = (
    "joints",
    "vertices",
    "pose",
    "betas",
    "projection",
    "depth",
    "diversity",
    "keypoints",
    "keypoint_maps",
    "visibility",
    "variance",
    "smoothness",
)
KINDS = {  # the flag, the labels behind it, and the terms that need them
    "hand": ("hand_valid", HAND_LABELS, (*HAND_TERMS, "object_translation", "object_pose")),
    "object": (
        "object_valid",
        OBJECT_LABELS,
        ("object_translation", "object_points", "object_rotation", "object_pose", "outline", "pose_search"),
    ),
    "contact": ("contact_valid", (), ("contact",)),
    "visibility": ("visibility_valid", (), ("visibility",)),
}


@pytest.fixture(scope="module")
def answers(make_batch):
    torch.manual_seed(0)
    batch = make_batch(4, left=True)
    seen = torch.rand(4, 21, generator=torch.Generator().manual_seed(0)) > 0.5
    labels = dataclasses.replace(batch.targets, joint_visible=seen, visibility_valid=torch.ones(4, dtype=torch.bool))
    batch = dataclasses.replace(batch, targets=labels, window=torch.zeros(4, dtype=torch.int64))
    model = AMT(ModelConfig(decoder_depth=1, joint_scale=True)).eval()
    with torch.no_grad():
        prediction = model(batch.inputs)
    generator = torch.Generator().manual_seed(1)
    maps = (torch.randn(4, channels, 28, 28, generator=generator) for channels in (64, 4))
    return dataclasses.replace(prediction, evidence=Evidence(*maps)), batch


def gradients(prediction, batch, config):
    """The loss and the gradient of every tensor of the prediction."""
    torch.manual_seed(0)  # the poses that the evidence is scored on are drawn
    leaves = prediction.map(lambda tensor: tensor.clone().requires_grad_(tensor.is_floating_point()))
    loss = compute_loss(leaves, batch, config)
    loss.total.backward()
    return loss, {name: leaf.grad for name, leaf in leaves.named_tensors() if leaf.grad is not None}


def without(batch, kind, samples):
    """The batch with the labels of one kind missing in some samples, and NaN in their place."""
    if kind == "class":
        known = batch.inputs.object_class.clone()
        known[samples] = 0
        return dataclasses.replace(batch, inputs=dataclasses.replace(batch.inputs, object_class=known))
    flag, labels, _ = KINDS[kind]
    valid = getattr(batch.targets, flag).clone()
    valid[samples] = False
    changed = {flag: valid}
    for name in labels:
        changed[name] = getattr(batch.targets, name).clone()
        changed[name][samples] = float("nan")
    return dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, **changed))


@pytest.mark.parametrize("kind", [*KINDS, "class"])
def test_a_batch_without_labels_of_a_kind_gives_0_and_finite_gradients(answers, kind):
    prediction, batch = answers
    loss, grads = gradients(prediction, without(batch, kind, slice(None)), LossConfig(**EVERY_TERM))
    assert set(loss.terms) == set(TERMS)
    needing = ("object_class",) if kind == "class" else KINDS[kind][2]
    assert {name: float(loss.terms[name]) for name in needing} == dict.fromkeys(needing, 0.0)
    assert [name for name, value in loss.terms.items() if not value.isfinite()] == []
    assert [name for name, grad in grads.items() if not grad.isfinite().all()] == []


@pytest.mark.parametrize("kind", [*KINDS, "class"])
@pytest.mark.parametrize("term", TERMS)
def test_a_masked_sample_changes_neither_the_term_nor_a_gradient(answers, kind, term):
    """NaN labels in sample 1: the term and all gradients are those of finite labels there that are masked, too."""
    prediction, batch = answers
    config = LossConfig(**{**dict.fromkeys(TERMS, 0.0), term: 1.0})
    poisoned = without(batch, kind, [1])
    finite = poisoned.targets.map(lambda tensor: tensor.nan_to_num(0.25) if tensor.is_floating_point() else tensor)
    loss, grads = gradients(prediction, poisoned, config)
    expected, expected_grads = gradients(prediction, dataclasses.replace(poisoned, targets=finite), config)
    assert loss.total.isfinite()
    assert torch.equal(loss.total, expected.total)
    assert grads.keys() == expected_grads.keys()
    assert [name for name, grad in grads.items() if not torch.equal(grad, expected_grads[name])] == []


def test_no_sample_of_a_batch_is_labelled_at_all(answers):
    prediction, batch = answers
    for kind in [*KINDS, "class"]:
        batch = without(batch, kind, slice(None))
    loss, grads = gradients(prediction, batch, LossConfig())
    assert {name for name, value in loss.terms.items() if value != 0} == {"kl"}  # it needs no label
    assert [name for name, grad in grads.items() if not grad.isfinite().all()] == []
