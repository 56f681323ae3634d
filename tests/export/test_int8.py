"""Which products become int8: simulated by module, chosen under a limit."""

import sys
import types

import pytest
import torch

from amt.export.crops import rows, tensors
from amt.export.formats import OPENVINO_HINTS
from amt.export.int8 import choose, products, round_input, round_weight, scopes
from amt.export.program import Flat


def test_weights_have_a_step_an_output_channel():
    weight = torch.randn(8, 3, 3, 3) * torch.logspace(-3, 3, 8)[:, None, None, None]
    rounded = round_weight(weight)
    step = weight.flatten(1).abs().amax(1) / 127
    assert ((rounded - weight).flatten(1).abs().amax(1) <= step / 2 * 1.001).all()
    assert all(len(channel.unique()) <= 255 for channel in rounded)
    assert torch.equal(round_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_inputs_have_one_step_and_zero_stays():
    x = torch.linspace(-1, 3, 2000)
    rounded = round_input(x, -1.0, 3.0)
    assert len(rounded.unique()) == 256
    assert (rounded - x).abs().max() <= 4 / 255 / 2 * 1.001
    assert round_input(torch.zeros(1), -0.7, 1.9).item() == 0
    assert torch.equal(round_input(x, -1.0, 1.0).max(), round_input(torch.ones(1), -1.0, 1.0)[0])  # saturated


def test_as_many_products_are_int8_as_the_limit_allows(model, crops):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    some = rows(crops, slice(2))
    chosen, left = choose(model, some, most_mm=1e6)
    assert chosen == list(products(model))
    assert left == []
    assert all(name.startswith(("backbone.", "neck.", "fusion.")) for name in chosen)
    few, others = choose(model, some, most_mm=0.05)
    assert 0 < len(few) < len(chosen)
    assert {*few, *others} == {*chosen}
    assert choose(model, some, most_mm=0.0)[0] == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_work_is_counted_in_multiplications(model, crops):
    found = products(model)
    name = "backbone.stages.0.0.0"  # from 48 px to 24
    hook = found[name].layer.register_forward_hook(found[name].watch)
    with torch.inference_mode():
        Flat(model)(**tensors(rows(crops, slice(2))))
    hook.remove()
    assert found[name].work == found[name].layer.weight.numel() * 24 * 24
    assert found[name].low < 0 < found[name].high


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("backbone.stages.0.0.0", {"backbone.stages.0.0.0", "backbone.stages.0.0.1"}),
        ("neck.low", {"neck.low"}),
        ("fusion.blocks.0.mlp.fc1", {"fusion.blocks.0.mlp.fc1"}),
    ],
)
def test_a_batch_norm_takes_its_convolution_over(model, layer, expected):
    """The exporter multiplies the norm into the weights and notes the norm as the node's origin."""
    assert scopes(model, [layer]) == expected


def test_calibration_compiles_with_the_hints(monkeypatch):
    """Without them OpenVINO's activations are wrong, and NNCF takes their ranges (docs/log.md)."""
    from amt.export.openvino_file import _core

    class Core:
        def compile_model(self, model, device_name, config):
            return device_name, config

    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Core=Core))
    assert _core()().compile_model("network", device_name="CPU", config=None) == ("CPU", OPENVINO_HINTS)
