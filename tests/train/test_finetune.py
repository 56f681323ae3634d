"""A run that begins with the weights of a checkpoint: its settings, what is taken over, and what is said."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixed_loader import SMALL
from mano_like import mano_like_hand

from amt.config import ConfigError, compose
from amt.model import AMT, CheckpointError, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.transfer import SHAPES, begin_from
from amt.train.config import PROGRAM, Config, differences, identity
from amt.train.trainer import Trainer, run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(5)
    return save_checkpoint(tmp_path_factory.mktemp("start") / "checkpoint", AMT(ModelConfig(**SMALL)))


@pytest.fixture(scope="module")
def mano(tmp_path_factory):
    arrays = {name: np.array(array) for name, array in mano_like_hand().arrays().items()}
    arrays["f"] = arrays["f"].astype(np.uint32)
    path = tmp_path_factory.mktemp("hand") / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps(arrays))
    return path


def test_the_checkpoint_decides_the_model_unless_words_do(checkpoint, mano):
    words = ["experiment=finetune", f"train.finetune={checkpoint}"]
    config = Config(**compose(PROGRAM, words))
    assert (config.model.hidden, config.model.crop_size, config.data.crop.size) == (64, 32, 32)
    assert config.train.lr == 2e-4
    assert Config(**compose(PROGRAM, [*words, "model.refine_steps=3"])).model.refine_steps == 3
    other = Config(**compose(PROGRAM, [*words, f"model.hand={mano}"]))
    assert (other.model.hand, other.model.hidden) == (str(mano), 64)
    assert Config(**compose(PROGRAM, [*words, "model=tiny"])).model.hidden == 192
    assert Config(**compose(PROGRAM, [])).model.hidden == 192  # nothing is left of an earlier composition


def test_a_missing_checkpoint_is_one_line(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.finetune is empty"):
        compose(PROGRAM, ["experiment=finetune"])
    with pytest.raises(ConfigError, match=r"train\.finetune=/nowhere/x: /nowhere/x: no such checkpoint folder"):
        compose(PROGRAM, ["train.finetune=/nowhere/x"])


def test_a_run_begins_with_the_weights(checkpoint, make_small, small_loader, monkeypatch):
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    config = make_small("tuned", steps=2, finetune=str(checkpoint))
    saved = load_checkpoint(checkpoint)[0].state_dict()
    begun = Trainer(config).model.state_dict()
    assert all(torch.equal(begun[name], saved[name]) for name in saved)
    folder = run(config, small_loader, progress=False)
    assert load_checkpoint(folder)[1]["train"]["finetune"] == str(checkpoint)
    now = identity({"train": {"finetune": str(checkpoint)}})
    assert differences(now, identity({"train": {"finetune": None}})) == f"train.finetune is None, was {checkpoint}"


def test_a_folder_of_output_does_not_make_it_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = {"train": {"finetune": "amt-tiny"}}
    before = identity(named)
    (tmp_path / "amt-tiny").mkdir()  # such as train.output
    assert differences(before, identity(named)) == ""


def test_another_hand_takes_all_but_its_vertices_and_betas(checkpoint, mano, caplog):
    caplog.set_level("INFO")
    saved = load_checkpoint(checkpoint)[0].state_dict()
    model = begin_from(ModelConfig(**SMALL, hand=str(mano)), checkpoint)
    own = model.state_dict()
    head = "coarse_decoder.hand_head.2.weight"
    rest = torch.ones(len(saved[head]), dtype=torch.bool)
    rest[SHAPES] = False
    assert torch.equal(own[head][rest], saved[head][rest])
    assert not torch.equal(own[head][SHAPES], saved[head][SHAPES])
    assert own["contact_decoder.vertex_bias"].shape == (778,)
    same = {name for name in own if own[name].shape == saved[name].shape and torch.equal(own[name], saved[name])}
    assert {name.partition(".")[0] for name in own.keys() - same} == {
        "coarse_decoder",
        "hand_decoder",
        "contact_decoder",
    }
    said = caplog.text
    assert f"beginning with the weights of {checkpoint}" in said
    assert "  backbone: " in said
    assert "new: hand_head.2.weight and 1 more (the rows of betas stay new: another hand)" in said
    assert "vertex_embedding ([1684, 16] there, [778, 16] here)" in said
    assert "vertex_bias ([1684] there, [778] here)" in said


def test_another_size_takes_what_fits_and_nothing_at_all_is_refused(checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    model = begin_from(ModelConfig(**{**SMALL, "refine_hidden": 16, "refine_steps": 2}), checkpoint)
    saved = load_checkpoint(checkpoint)[0].state_dict()
    assert torch.equal(model.state_dict()["backbone.norm.weight"], saved["backbone.norm.weight"])
    assert "w2 ([1, 3, 8] there, [2, 3, 16] here)" in caplog.text
    from safetensors.torch import save_file

    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({"model": {}}))
    save_file({"nothing": torch.zeros(1)}, strange / "model.safetensors")
    with pytest.raises(CheckpointError, match="nothing of it fits this model"):
        begin_from(ModelConfig(**SMALL), strange)


def test_a_dinov2_that_was_taken_over_whole_learns_as_a_pretrained_one(tmp_path, recwarn):
    pytest.importorskip("transformers")
    settings = {**SMALL, "crop_size": 28, "backbone": {"name": "dinov2-small", "depth": 1}}
    folder = save_checkpoint(tmp_path / "dinov2", AMT(ModelConfig(**settings)))
    recwarn.clear()
    assert begin_from(ModelConfig(**settings), folder).backbone.pretrained
    assert not [warning for warning in recwarn if "starts at random" in str(warning.message)]


def test_the_command_says_what_it_takes_over(checkpoint, monkeypatch, tmp_path):
    from amt.train.__main__ import main

    seen = []
    monkeypatch.setattr("amt.train.trainer.run", lambda config: seen.append(config) or Path(tmp_path))
    monkeypatch.setattr(sys, "argv", ["amt.train"])
    assert main(["experiment=finetune", f"train.finetune={checkpoint}", "train.device=cpu"]) == 0
    assert seen[0].model.hidden == 64
