"""The model with FP8 products in its blocks."""

import sys
import types
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from amt.kernels.fp8_linear import Fp8Linear
from amt.kernels.testing import relative_error
from amt.model import AMT
from amt.model.config import ConfigError, ModelConfig
from amt.model.fp8 import use_fp8, use_precision
from amt.model.layers import Block


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


@pytest.fixture
def block():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.blocks = nn.ModuleList([Block(64, 2)])
    return model


LAYERS = [f"blocks.0.{name}" for name in ("attention.q", "attention.k", "attention.v", "mlp.fc1", "mlp.fc2")]


@pytest.mark.parametrize(("precision", "package"), [("te", "transformer-engine"), ("torchao", "torchao")])
def test_a_package_that_is_not_there_is_one_line(block, precision, package, monkeypatch):
    for module in ("transformer_engine", "torchao", "torchao.float8"):
        monkeypatch.setitem(sys.modules, module, None)  # to import it is an ImportError
    with pytest.raises(ConfigError) as raised:
        use_precision(block, "train.precision", precision, training=True)
    message = str(raised.value)
    assert message.startswith(f"train.precision={precision} needs {package}, which does not import (")
    assert message.endswith(f"`pip install {package}`, or take train.precision=fp8")
    assert "\n" not in message


def test_transformer_engine_computes_with_the_layers_own_parameters(block, monkeypatch):
    """A stub in the package's place, which checks what the real one asks for; it does not import without a GPU."""
    inside, rows = [], []

    class Linear(nn.Linear):
        def __init__(self, in_features, out_features, bias, params_dtype):
            super().__init__(in_features, out_features, bias, dtype=params_dtype)
            self.register_buffer("_extra_state", torch.zeros(1))

        def forward(self, x):
            assert inside
            rows.append(len(x))
            return super().forward(x)

    @contextmanager
    def autocast(enabled):
        inside.append(enabled)
        yield
        inside.pop()

    stub = types.ModuleType("transformer_engine.pytorch")
    stub.Linear, stub.autocast = Linear, autocast
    monkeypatch.setitem(sys.modules, "transformer_engine", types.ModuleType("transformer_engine"))
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", stub)
    x, names = torch.randn(2, 9, 64, requires_grad=True), list(block.state_dict())
    parameters = dict(block.named_parameters())
    expected = block.blocks[0](x)
    (grad,) = torch.autograd.grad(expected.square().sum(), x)
    line = use_precision(block, "train.precision", "te", training=True)
    assert line.startswith("Transformer Engine's FP8 products in 5 linear layers: ")
    out = block.blocks[0](x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), x)[0], grad)
    assert rows == [32] * 5  # 18 tokens, padded
    assert list(block.state_dict()) == names
    assert all(parameters[name] is parameter for name, parameter in block.named_parameters())
    with torch.no_grad():
        block.blocks[0].mlp.fc1.weight.zero_()
    assert not torch.equal(block.blocks[0](x), out)


@pytest.mark.filterwarnings("ignore")
def test_torchao_converts_the_same_layers(block):
    pytest.importorskip("torchao.float8")
    from torchao.float8.float8_linear import Float8Linear

    expected, names = block.blocks[0](torch.ones(2, 9, 64)), list(block.state_dict())
    line = use_precision(block, "train.precision", "torchao", training=True)
    assert line.startswith("torchao's float8 training in 5 linear layers: ")
    assert [name for name, layer in block.named_modules() if isinstance(layer, Float8Linear)] == LAYERS
    assert list(block.state_dict()) == names
    assert all(type(p) is nn.Parameter for p in block.parameters())
    assert isinstance(block.blocks[0].mlp.fc1, nn.Linear)  # optimizers choose by it
    assert 0 < relative_error(block.blocks[0](torch.ones(2, 9, 64)), expected) < 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_torchaos_inference_needs_a_card_and_says_so(block):
    pytest.importorskip("torchao.quantization")
    with pytest.raises(
        ConfigError, match=r"infer.precision=torchao: Float8 .* requires CUDA.* Take infer.precision=fp8"
    ):
        use_precision(block, "infer.precision", "torchao", training=False)
