"""Every layer's attention can be looked at, also in DINOv2, and nothing is left of the look."""

import math

import pytest
import torch

from amt.kernels import _backend
from amt.model import AMT, ModelConfig
from amt.model.attention_entropy import recorded_entropy


def test_each_head_and_query_of_each_layer(make_batch):
    torch.manual_seed(0)
    model = AMT(ModelConfig(size="tiny", crop_size=32)).eval()
    inputs = make_batch(2, crop=32).inputs
    with torch.no_grad():
        expected = model(inputs).joints
        with recorded_entropy(model) as found:
            assert torch.equal(model(inputs).joints, expected)
    tokens = (32 // 16) ** 2
    (backbone,) = found["backbone.blocks.0"]
    assert backbone.shape == (2, model.config.hidden // 64, tokens)
    assert (backbone >= 0).all()
    assert (backbone <= math.log(tokens) + 1e-6).all()
    assert {f"fusion.blocks.{i}" for i in range(model.config.fusion_depth)} <= set(found)
    assert _backend._observer is None
    with pytest.raises(ValueError, match=r"inputs.image"), recorded_entropy(model):
        model(make_batch(1, crop=64).inputs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:.*starts at random")
def test_dinov2s_layers_are_named():
    pytest.importorskip("transformers")
    from amt.model.dinov2 import DinoV2Backbone

    backbone = DinoV2Backbone(ModelConfig(size="small", crop_size=56, backbone={"depth": 2})).eval()
    with torch.no_grad(), recorded_entropy(backbone) as found:
        backbone(torch.randn(1, 3, 56, 56))
    assert list(found) == ["model.encoder.layer.0", "model.encoder.layer.1"]
    assert found["model.encoder.layer.1"][0].shape == (1, 6, 1 + backbone.skip - 1 + 16)
