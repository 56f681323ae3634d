"""Networks as they are run: folded and in bfloat16, they say what they said."""

import pytest
import torch
from torch import nn

from amt.model import AMT, ModelConfig
from amt.model.backbone import HybridBackbone
from amt.model.lean import Narrow, lean, with_narrow_convolutions
from amt.model.locator import Locator, LocatorConfig
from amt.model.verifier import SIZE, Verifier


def trained(network: nn.Module) -> nn.Module:
    """With statistics and scales as training leaves them: nothing is 0 or 1 by accident."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-4), (True, 0.05)])
@torch.no_grad()
def test_both_networks_of_the_locator_say_the_same(bfloat16, tolerance):
    locator = trained(Locator(LocatorConfig(channels=(8, 16, 16), verifier=(8, 16, 16))))
    weights = {name: tensor.clone() for name, tensor in locator.state_dict().items()}
    fast = lean(locator, bfloat16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    pictures, crops = (torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8) for size in ((144, 192), (SIZE, SIZE)))
    for exact, near in ((locator(pictures), fast(pictures)), (locator.verifier(crops), fast.verifier(crops))):
        for name, expected, found in zip(exact._fields, exact, near):
            assert found.dtype == torch.float32, name
            away = (found - expected).abs().max()
            assert away <= tolerance * max(1.0, expected.abs().max()), name
    for name, tensor in locator.state_dict().items():  # what was given is as it was
        assert torch.equal(tensor, weights[name]), name


def test_a_network_in_training_is_not_folded_by_its_batch():
    verifier = trained(Verifier((8, 8, 8))).train()
    fast = lean(verifier)
    assert verifier.training
    assert not fast.training


def test_convolutions_alone_are_narrow_and_the_other_tensors_are_shared():
    model = trained(AMT(ModelConfig(size="tiny")))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    narrow = with_narrow_convolutions(model)
    stacks = {name for name, module in narrow.named_modules() if isinstance(module, Narrow)}
    assert stacks == {*(f"backbone.stages.{k}" for k in range(4)), "neck.merge", "neck.sharpen"}
    inside = [p for name, p in narrow.named_parameters() if any(name.startswith(f"{stack}.") for stack in stacks)]
    assert inside
    assert {p.dtype for p in inside} == {torch.bfloat16}
    own = dict(model.named_parameters())
    outside = [name for name, _ in narrow.named_parameters() if not any(name.startswith(stack) for stack in stacks)]
    assert outside
    assert all(narrow.get_parameter(name) is own[name] for name in outside)
    for name, tensor in model.state_dict().items():  # what was given is as it was
        assert torch.equal(tensor, weights[name]), name


@torch.no_grad()
def test_a_narrow_backbone_gives_float32_maps_that_are_near():
    torch.manual_seed(0)
    backbone = trained(HybridBackbone(ModelConfig(size="tiny")))
    image = torch.randn(2, 3, 112, 112)
    exact, near = backbone(image), with_narrow_convolutions(backbone)(image)
    for expected, found in zip((*exact.maps, exact.tokens), (*near.maps, near.tokens)):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
