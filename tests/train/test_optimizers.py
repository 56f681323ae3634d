"""What decays, on the real model of each size."""

import warnings

import pytest
import torch
from torch import nn

from amt.model import AMT, ModelConfig
from amt.model.config import SIZES
from amt.train.config import TrainConfig
from amt.train.optimizers import make_optimizers

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
    *(f"{part}.{name}" for part in ("hand_encoder.points", "object_encoder.points") for name in ("w1", "w2")),
    *(f"{part}.{name}" for part in ("contact_encoder.points", "refinement") for name in ("w1", "w2")),
}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("size", list(SIZES))
def test_exactly_the_weights_of_layers_decay(size, optimizer):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that DINOv2 starts at random does not matter here
        model = AMT(ModelConfig(size=size))
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
