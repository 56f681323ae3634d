"""A checkpoint that was trained with MANO on another machine: each door takes the file's path on this one."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from mano_like import mano_like_hand

import amt
from amt.config import ConfigError, compose
from amt.errors import UserError
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "nope"}, "device must be auto, cpu, cuda or cuda:N; got 'nope'"),
        ({"device": "cuda:99"}, "device=cuda:99: "),
        ({"locator": "x"}, "locator: expected one of model, mediapipe, window; got 'x'"),
    ],
)
def test_an_argument_that_cannot_be_is_named_before_anything_is_read(tmp_path, arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        amt.load(tmp_path, **arguments)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("plain") / "checkpoint", AMT(ModelConfig()))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("outline", "maybe", "must be true or false"),
        ("backbone", {"residuals": None}, "model.backbone.residuals must be 4 whole numbers"),
        ("colour", 1, "unknown colour"),
        ("outline", False, "do not fit it.*train.finetune"),
        ("corners", True, "do not fit it.*train.finetune"),
        ("refine_steps", 1, "do not fit it.*train.finetune"),
    ],
)
def test_an_override_that_cannot_be_is_named_and_the_folder_is_not_blamed(plain, name, value, message):
    with pytest.raises(ConfigError, match=rf"^{name}={re.escape(repr(value))}: .*{message}") as caught:
        AMT.from_pretrained(plain, **{name: value, "drop_path": 0.1})
    assert "config.json" not in str(caught.value)
    assert "copy the folder" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_folder_is_blamed_whatever_is_overridden(plain, tmp_path):
    record = json.loads((plain / "config.json").read_text())
    for key, value, message in (("outline", 7, "is not a configuration"), ("hidden", 256, "cannot be loaded")):
        folder = tmp_path / key
        shutil.copytree(plain, folder)
        (folder / "config.json").write_text(json.dumps(record | {"model": {**record["model"], key: value}}))
        with pytest.raises(CheckpointError, match=message):
            AMT.from_pretrained(folder, drop_path=0.1)
