"""evaluate.box=located: the checkpoint's own locator, or the one that ships."""

import torch

from amt.evaluate.boxes import find_locator
from amt.infer.finder import choose_finder
from amt.locate import ModelLocator
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.model.checkpoint import add_locator
from amt.model.locator import Locator, LocatorConfig
from amt.model.shipped_locator import shipped_locator


def test_the_checkpoints_own_locator_stands_over_the_one_that_ships(tmp_path):
    torch.manual_seed(0)
    model = AMT(ModelConfig(decoder_depth=1, fusion_depth=1, backbone={"depth": 1}))
    folder = save_checkpoint(tmp_path / "checkpoint", model)
    found = find_locator(folder, 1.5)
    assert isinstance(found, ModelLocator)
    assert found.network.config == shipped_locator().config
    add_locator(folder, Locator(), {"recall": 0.95})
    found = find_locator(folder, 1.7)
    assert found.network.config == LocatorConfig()
    assert found.box_scale == 1.7


def test_pictures_get_a_lean_copy_and_evaluation_the_network_as_it_was_trained(tmp_path):
    model = AMT(ModelConfig(decoder_depth=1, fusion_depth=1, backbone={"depth": 1}))
    folder = save_checkpoint(tmp_path / "checkpoint", model)
    exact, fast = find_locator(folder, 1.5), choose_finder("model", folder, 1.5, "cpu")

    def norms(network):
        return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())

    assert exact.running is exact.network
    assert norms(exact.running) > norms(fast.running) == 0
    assert fast.plain().running is fast.network
    assert norms(fast.network) == norms(exact.network)
