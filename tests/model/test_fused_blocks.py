"""Fused blocks give what the blocks' own modules give, with the same parameters."""

import copy

import pytest
import torch
from torch import nn

from amt.kernels import _backend, _triton, use
from amt.kernels._prepared import prepared
from amt.kernels.block import choice
from amt.kernels.fp8_linear import epilogue
from amt.kernels.testing import assert_error_rule, relative_error
from amt.model import AMT, ConfigError, ModelConfig
from amt.model.dinov2 import DinoV2Backbone
from amt.model.fp8 import use_fp8
from amt.model.fused_blocks import FusedBlock, use_blocks
from amt.model.layers import Block

FORMS = ["fused", "fused_gelu", "fused_tanh"]


def perturbed(module: nn.Module) -> nn.Module:
    """Norms, biases and LayerScale away from what they start at."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 1:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return module


def block(cross: bool = False) -> Block:
    torch.manual_seed(0)
    return perturbed(Block(128, 4, cross=cross))


def dinov2(registers: int = 0):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = ModelConfig(size="small", crop_size=56, backbone={"depth": 1, "registers": registers})
    return perturbed(DinoV2Backbone(config))


def fused(module: nn.Module, form: str) -> nn.Module:
    module = copy.deepcopy(module)
    line = use_blocks(module, form)
    assert line.endswith(f"transformer blocks, {form}")
    assert not line.startswith("0 ")
    return module


def results(module, inputs, function=None):
    inputs = [x.detach().requires_grad_() for x in inputs]
    module.zero_grad()
    out = (function or module)(*inputs)
    out.square().mean().backward()
    return [out.detach(), *(x.grad for x in inputs), *(p.grad for p in module.parameters())]


def held_to_the_error_rule(stock, ours, inputs, of=lambda module: module, autocast=True):
    truth = copy.deepcopy(stock).double()
    expected = results(truth, [x.double() for x in inputs], of(truth))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, peer = (results(module, inputs, of(module)) for module in (ours, stock))
    assert_error_rule([x.float() for x in found], expected, [x.float() for x in peer])


@pytest.mark.parametrize("autocast", [True, False], ids=["bf16", "float32"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_a_block_with_every_gradient(cross, form, autocast):
    stock = block(cross)
    inputs = [torch.randn(2, 9, 128), torch.randn(2, 5, 128)][: 1 + cross]
    held_to_the_error_rule(stock, fused(stock, form), inputs, autocast=autocast)


def test_reading_a_part_of_the_tokens():
    stock = block()
    inputs = [torch.randn(2, 3, 128), torch.randn(2, 9, 128)]
    held_to_the_error_rule(stock, fused(stock, "fused_gelu"), inputs, lambda module: module.read)


@pytest.mark.filterwarnings("ignore:.*starts at random")
@pytest.mark.parametrize("registers", [0, 4])
def test_a_layer_of_dinov2_with_its_layer_scale(registers):
    stock = dinov2(registers).model.encoder.layer[0]
    whole = dinov2(registers)
    use_blocks(whole, "fused_gelu")
    held_to_the_error_rule(stock, whole.model.encoder.layer[0], [torch.randn(2, 17, 384)])


@pytest.mark.skipif(not _triton.INTERPRETED, reason="needs TRITON_INTERPRET=1")
@pytest.mark.interpreted
def test_a_block_by_tritons_kernels():
    stock = block(cross=True).half()
    ours, inputs = fused(stock, "fused_gelu"), [torch.randn(1, 17, 128).half(), torch.randn(1, 5, 128).half()]
    truth = copy.deepcopy(stock).double()
    with use("triton"):
        found = results(ours, inputs)
    assert_error_rule(found, results(truth, [x.double() for x in inputs]), results(stock, inputs))


@pytest.mark.parametrize("form", FORMS)
def test_without_gradients_weights_are_kept_and_follow_every_change(form):
    stock = block().eval()
    ours, x = fused(stock, form).eval(), torch.randn(2, 9, 128)
    with torch.no_grad():
        for change in (lambda p: None, lambda p: p.mul_(0.5), lambda p: p.add_(0.1)):
            for module in (stock, ours):
                for p in module.parameters():
                    change(p)
            with torch.autocast("cpu", torch.bfloat16):  # a new block each time: autocast keeps weights, too
                found, expected = ours(x), stock(x)
                assert torch.equal(ours(x), found)
            assert relative_error(found, expected) < 1e-2
    assert list(ours.state_dict()) == list(stock.state_dict())


def test_what_is_prepared_is_made_once_for_each_weight():
    layer, made = nn.Linear(4, 4).eval(), []

    def make(weight, factor):
        made.append(factor)
        return weight * factor

    with torch.no_grad():
        for factor in (2, 2, 3):
            assert torch.equal(prepared(layer, "x", (layer.weight,), make, factor), layer.weight * factor)
        assert made == [2, 3]
        layer.weight.add_(1)
        assert torch.equal(prepared(layer, "x", (layer.weight,), make, 3), layer.weight * 3)
        layer.weight = nn.Parameter(torch.ones(4, 4))
        assert prepared(layer, "x", (layer.weight,), make, 3).max() == 3
        assert made == [2, 3, 3, 3]
        prepared(layer.train(), "x", (layer.weight,), make, 3)
        prepared(layer.eval(), "x", (layer.weight,), make, 3)
        assert len(made) == 6
    assert prepared(layer, "x", (layer.weight,), make, 3).requires_grad  # with a gradient nothing is kept
    assert len(made) == 7


def test_fp8_in_fused_blocks_is_fp8_in_the_blocks_own_modules():
    stock = nn.Sequential()
    stock.blocks = nn.ModuleList([block()])
    use_fp8(stock)
    ours, x = fused(stock, "fused"), torch.randn(2, 9, 128)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            expected, found = (m.eval().blocks[0](x) for m in (stock, ours))
        exact = block()(x)
        assert (found - expected).norm() < 0.3 * (expected - exact).norm() + 0.01 * exact.norm()
        ours, stock = (results(m.train().blocks[0], [x]) for m in (ours, stock))
    rounding = 1e-3 * max(gradient.norm() for gradient in stock[1:])  # the bias of the keys has a gradient of 0
    for mine, other in zip(ours, stock):
        assert (mine - other).norm() < 0.05 * other.norm() + rounding


def test_the_whole_model(make_batch):
    torch.manual_seed(0)
    model = AMT(ModelConfig(size="tiny", crop_size=32)).eval()
    inputs, names = make_batch(2, crop=32).inputs, None
    with torch.no_grad():
        expected, names = model(inputs).joints, list(model.state_dict())
        assert use_blocks(model, "auto") == "blocks by their own modules: fused ones are for CUDA"
        assert not any(isinstance(module, FusedBlock) for module in model.modules())
        use_blocks(model, "fused")
        torch.testing.assert_close(model(inputs).joints, expected, rtol=1e-4, atol=1e-5)
        use_blocks(model, "stock")
        assert torch.equal(model(inputs).joints, expected)
    assert list(model.state_dict()) == names
    with pytest.raises(
        ConfigError, match="one of auto, stock, fused, fused_gelu, fused_tanh, fused_cutlass; got 'fast'"
    ):
        use_blocks(model, "fast")


def test_it_compiles_in_one_graph():
    ours, x = fused(block(), "fused_gelu").eval(), torch.randn(2, 9, 128)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(ours, fullgraph=True, backend="aot_eager")(x), ours(x))


def test_auto_follows_the_cards_table(monkeypatch):
    shape = dict(rows=4112, channels=1024, units=0, dtype="bfloat16", backward=False)
    table = choice.Table(
        [
            {**shape, "ms": {"stock": 2.0, "fused_gelu": 1.0}},
            {**shape, "rows": 257, "ms": {"stock": 1.0, "fused": 2.0}},
            {**shape, "units": 4096, "ms": {"bf16": 1.0, "fp8": 2.0}},
        ]
    )

    def best(rows, channels=1024, units=0, default="stock"):
        return table.fastest(choice.Shape(rows, channels, units, "bfloat16", False), default)

    assert best(4112) == best(6000) == "fused_gelu"
    assert best(257) == best(10_000) == best(4112, channels=768) == "stock"
    assert best(4112, units=4096, default="fp8") == "bf16"
    assert best(4112, units=1024, default="fp8") == "fp8"  # not measured: FP8, as was asked for


@pytest.fixture
def emulated_cutlass(monkeypatch):
    """CUTLASS's epilogues by their definition, on a CPU."""
    monkeypatch.setattr(epilogue, "reason", lambda device: None)


@pytest.mark.parametrize("autocast", [True, False], ids=["bf16", "float32"])
def test_products_by_cutlass_have_the_error_of_fp8(emulated_cutlass, autocast):
    """Every product and fc2's operand, whose scale is a bound; a second block has queries and a context."""
    model = nn.Sequential()
    model.blocks = nn.ModuleList([block(), block(cross=True)])
    exact = copy.deepcopy(model).eval()
    use_fp8(model)
    stock, ours = (fused(model, form).eval() for form in ("fused", "fused_cutlass"))
    x, context = torch.randn(2, 9, 128), torch.randn(2, 5, 128)
    ops = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, by_pytorch = (m.blocks[1](m.blocks[0](x), context) for m in (exact, stock))
        with _backend.observed(lambda op, function: ops.append(op) or function):
            found = ours.blocks[1](ours.blocks[0](x), context)
    assert found.dtype == expected.dtype
    assert ops.count("fp8_linear") == 3 + 5  # qkv, fc1, fc2; and the other block's q and its context's kv
    assert relative_error(found, expected) < 1.3 * relative_error(by_pytorch, expected)
    assert "gelu_quantize" not in ops


def test_cutlass_follows_the_weights_and_leaves_training_alone(emulated_cutlass):
    model = nn.Sequential()
    model.blocks = nn.ModuleList([block()])
    use_fp8(model)
    stock, ours, x = fused(model, "fused"), fused(model, "fused_cutlass"), torch.randn(2, 9, 128)
    for one, other in zip(results(stock.blocks[0], [x]), results(ours.blocks[0], [x])):
        assert torch.equal(one, other)
    with torch.no_grad():
        for name in ("norm2.weight", "norm2.bias", "mlp.fc1.weight"):
            for m in (stock, ours):
                m.eval().blocks[0].get_parameter(name).mul_(3)
            expected, found = (m.blocks[0](x) for m in (stock, ours))
            assert relative_error(found, expected) < 0.06, name  # an old scale would saturate


# Q's layer decides on Q, K and V; fc1; fc2
@pytest.mark.parametrize("named", [(128, 128), (128, 512), (512, 128)], ids=["qkv", "fc1", "fc2"])
def test_a_table_takes_cutlass_for_the_products_that_it_names(emulated_cutlass, monkeypatch, named):
    model = nn.Sequential()
    model.blocks = nn.ModuleList([block()])
    use_fp8(model)
    ours, x, ops = fused(model, "fused").eval(), torch.randn(2, 9, 128), []
    monkeypatch.setattr(choice, "product", lambda d, shape, n, t: "cutlass" if (shape[-1], n) == named else "fp8")
    with torch.no_grad(), _backend.observed(lambda op, function: ops.append(op) or function):
        ours.blocks[0](x)
    assert ops.count("fp8_linear") == 1


def test_cutlass_raises_where_it_cannot_run(monkeypatch):
    model = nn.Sequential()
    model.blocks = nn.ModuleList([block()])
    with pytest.raises(ConfigError, match="blocks=fused_cutlass cannot run on cpu: it runs on cuda tensors only"):
        use_blocks(model, "fused_cutlass")
    monkeypatch.setattr(epilogue, "reason", lambda device: None)
    with pytest.raises(ConfigError, match="no layer has them: take precision=fp8 as well"):
        use_blocks(model, "fused_cutlass")
