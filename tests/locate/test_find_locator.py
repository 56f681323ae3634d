"""evaluate.box=located: the checkpoint's locator, or one line that says how to get one."""

import pytest
import torch

from amt.errors import UsageError
from amt.evaluate.boxes import find_locator
from amt.locate import ModelLocator
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.model.checkpoint import add_locator
from amt.model.locator import Locator


def test_the_checkpoints_locator_is_taken(tmp_path):
    torch.manual_seed(0)
    model = AMT(ModelConfig(decoder_depth=1, fusion_depth=1, backbone={"depth": 1}))
    folder = save_checkpoint(tmp_path / "checkpoint", model)
    with pytest.raises(UsageError, match=r"evaluate\.box=located: .*python -m amt\.train\.locator .* adds one"):
        find_locator(folder, 1.5)
    add_locator(folder, Locator(), {})
    found = find_locator(folder, 1.7)
    assert isinstance(found, ModelLocator)
    assert found.box_scale == 1.7
