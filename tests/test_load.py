"""A checkpoint that was trained with MANO on another machine: each door takes the file's path on this one."""

import json
import pickle

import numpy as np
import pytest
import torch
from mano_like import mano_like_hand

import amt
from amt.config import ConfigError, compose
from amt.evaluate.config import PROGRAM as EVALUATE
from amt.infer.config import PROGRAM as INFER
from amt.model import AMT, CheckpointError, ModelConfig, save_checkpoint
from amt.model.checkpoint import read_record


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The folder of a checkpoint whose hand file is gone, and the file's new path."""
    folder = tmp_path_factory.mktemp("moved")
    path = folder / "MANO_RIGHT.pkl"
    arrays = {name: np.array(array) for name, array in mano_like_hand().arrays().items()}
    arrays["f"] = arrays["f"].astype(np.uint32)
    path.write_bytes(pickle.dumps(arrays))
    torch.manual_seed(0)
    checkpoint = save_checkpoint(folder / "checkpoint", AMT(ModelConfig(hand=str(path))))
    record = json.loads((checkpoint / "config.json").read_text())
    record["model"]["hand"] = "/another/machine/MANO_RIGHT.pkl"
    (checkpoint / "config.json").write_text(json.dumps(record))
    return checkpoint, path


def test_load_takes_the_hand_of_this_machine(moved):
    checkpoint, path = moved
    with pytest.raises((ConfigError, CheckpointError), match=r"/another/machine/MANO_RIGHT\.pkl"):
        amt.load(checkpoint)
    predictor = amt.load(checkpoint, device="cpu", hand=path)
    assert predictor.model.config.hand == str(path)


@pytest.mark.parametrize("program", [EVALUATE, INFER], ids=["evaluate", "infer"])
def test_programs_take_the_hand_of_this_machine(moved, program):
    checkpoint, path = moved
    with pytest.raises(
        ConfigError, match=r"model\.hand=/another/machine/.*no such file; give the path of MANO_RIGHT\.pkl"
    ):
        compose(program, [], read_record(checkpoint))
    assert compose(program, [f"model.hand={path}"], read_record(checkpoint))["model"].hand == str(path)
