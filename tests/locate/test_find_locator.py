"""evaluate.box=located: the checkpoint's own locator, or the one that ships."""

import torch

from amt.evaluate.boxes import find_locator
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
