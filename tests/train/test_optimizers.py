"""What decays and how fast each weight learns, on the real model of each size."""

import warnings

import pytest
import torch
from torch import nn

from amt.model import AMT, ModelConfig
from amt.model.config import SIZES
from amt.train.config import TrainConfig
from amt.train.optimizers import HEADS, Optimizers, make_optimizers
from tests.model.conftest import EVERY_PART

# Has two dimensions or more and must not decay: biases a joint or a frame, embeddings, queries, special tokens.
NOT_MATRICES = {
    "coarse_decoder.queries",
    "coarse_decoder.keypoint_embedding",
    "coarse_decoder.class_embedding.weight",
    "hand_encoder.points.b1",
    "object_encoder.points.b1",
    "object_encoder.class_embedding.weight",
    "contact_encoder.points.b1",
    "fusion.kind",
    "contact_decoder.vertex_embedding",
    "refinement.b1",
    "refinement.b2",
}
HYBRID = {"backbone.position"}
DINOV2 = {
    f"backbone.model.embeddings.{n}" for n in ("cls_token", "mask_token", "position_embeddings", "register_tokens")
}
# Matrices that no nn.Linear holds: an op or a head takes them as they are.
RAW_MATRICES = {
    "keypoints.beside_and_trust",
    "outline.beside_and_scale",
    *(f"{part}.{name}" for part in ("hand_encoder.points", "object_encoder.points") for name in ("w1", "w2")),
    *(f"{part}.{name}" for part in ("contact_encoder.points", "refinement") for name in ("w1", "w2")),
}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("size", list(SIZES))
def test_exactly_the_weights_of_layers_decay(size, optimizer):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that DINOv2 starts at random does not matter here
        model = AMT(ModelConfig(size=size, **EVERY_PART))
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {
        names[id(p)]
        for each in make_optimizers(model, TrainConfig(optimizer=optimizer, weight_decay=0.1))
        for group in each.param_groups
        for p in group["params"]
        if group["weight_decay"]
    }
    layers = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert decayed == layers | RAW_MATRICES
    several = {name for name, p in model.named_parameters() if p.dim() > 1}
    assert several - decayed == NOT_MATRICES | (HYBRID if size == "tiny" else DINOV2)


@pytest.fixture
def dinov2():
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return AMT(ModelConfig(size="small", backbone={"name": "dinov2-small", "depth": 3}))


def rates(model, train):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [g for each in make_optimizers(model, train) for g in each.param_groups]
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_a_pretrained_backbone_learns_slower_the_deeper_a_block_lies(dinov2):
    dinov2.backbone.pretrained = True
    found = rates(dinov2, TrainConfig(lr=1e-3, pretrained_lr=1e-4, layer_decay=0.5))
    expected = {
        "encoder.layer.2.norm1.weight": 1e-4,
        "layernorm.weight": 1e-4,
        "encoder.layer.1.mlp.fc1.weight": 5e-5,
        "encoder.layer.0.norm2.bias": 2.5e-5,
        "embeddings.cls_token": 1.25e-5,
        "embeddings.patch_embeddings.projection.weight": 1.25e-5,
    }
    assert {name: found[f"backbone.model.{name}"] for name in expected} == pytest.approx(expected)
    assert {lr for name, lr in found.items() if not name.startswith("backbone.model.")} == {1e-3, 4e-3}
    dinov2.backbone.pretrained = False
    found = rates(dinov2, TrainConfig(lr=1e-3, pretrained_lr=1e-4))
    assert {lr for name, lr in found.items() if name.startswith("backbone.model.")} == {1e-3}


@pytest.mark.parametrize("size", ["tiny", "large"])
def test_heads_have_a_rate_of_their_own(size):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = AMT(ModelConfig(size=size, **EVERY_PART))
    found = rates(model, TrainConfig(lr=1e-3, head_lr=3e-3))
    heads = {name for name, lr in found.items() if lr == 3e-3}
    assert heads == {name for name in found if name.startswith(HEADS)}
    assert all(any(name.startswith(head) for name in heads) for head in HEADS)


def test_rates_of_all_groups_follow_one_schedule_and_the_configuration_wins_over_a_state():
    with torch.device("meta"):
        model = AMT(ModelConfig())
    saved = Optimizers(model, TrainConfig(weight_decay=0.5, head_lr=7e-3))
    saved.set_rate(1e-5)
    now = Optimizers(model, TrainConfig(weight_decay=0.1, head_lr=2e-3))
    now.load_state_dict(saved.state_dict())
    now.set_rate(5e-4)  # half the peak
    groups = [group for each in now.each for group in each.param_groups]
    assert {(g.get("name", "muon"), g["lr"]) for g in groups} == {("new", 5e-4), ("heads", 1e-3), ("muon", 2e-3)}
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}
