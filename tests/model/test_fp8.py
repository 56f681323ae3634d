"""The model with FP8 products in its blocks."""

import pytest
import torch

from amt.kernels.fp8_linear import Fp8Linear
from amt.model import AMT
from amt.model.config import ModelConfig
from amt.model.fp8 import use_fp8


def test_the_blocks_layers_are_converted_and_checkpoints_stay(make_batch):
    torch.manual_seed(0)
    model = AMT(ModelConfig()).eval()
    inputs = make_batch(2).inputs
    with torch.no_grad():
        expected = model(inputs).joints
    names = list(model.state_dict())
    line = use_fp8(model)
    kinds = line.split(": ")[1].split(", ")
    assert {"backbone.blocks.*.attention.q", "fusion.blocks.*.mlp.fc1", "fusion.blocks.*.mlp.fc2"} <= set(kinds)
    assert not any(kind.endswith("attention.out") for kind in kinds)
    assert list(model.state_dict()) == names
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert sum(isinstance(m, Fp8Linear) for m in model.modules()) == int(line.split(" linear")[0].split()[-1])
    with torch.no_grad():
        moved = (model(inputs).joints - expected).norm(dim=-1)
    assert 0 < moved.max() < 0.05  # m, of a model that has learned nothing


@pytest.mark.filterwarnings("ignore:.*starts at random")
def test_dinov2s_layers_are_converted():
    pytest.importorskip("transformers")
    from amt.model.dinov2 import DinoV2Backbone

    backbone = DinoV2Backbone(ModelConfig(size="small", crop_size=56, backbone={"depth": 2}))
    line = use_fp8(backbone)
    assert line.startswith("FP8 products in 10 linear layers: ")  # two layers of Q, K, V, fc1 and fc2
    assert "model.encoder.layer.*.attention.k_proj" in line
