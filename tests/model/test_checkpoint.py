"""Checkpoint folders: bit-identical there and back, and one clear line for each way to be broken."""

import json

import pytest
import torch

from amt.model import AMT, CheckpointError, ModelConfig, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(3)
    model = AMT(ModelConfig(refine_steps=2)).eval()
    return model, save_checkpoint(tmp_path_factory.mktemp("saved") / "checkpoint", model, steps=7)


def test_what_comes_back_is_bit_identical(saved, make_batch):
    model, folder = saved
    again, record = load_checkpoint(folder)
    assert record["steps"] == 7
    assert again.config == model.config
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    inputs = make_batch(2).inputs
    with torch.no_grad():
        assert torch.equal(model(inputs).joints, again(inputs).joints)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_no_licensed_hand_is_written(saved):
    from safetensors import safe_open

    with safe_open(saved[1] / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith("mano.")]  # noqa: SIM118


def test_broken_folders_are_named(saved, tmp_path):
    import shutil

    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    for name in ("model.safetensors", "config.json"):
        folder = tmp_path / f"without-{name}"
        shutil.copytree(saved[1], folder)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=rf"{name} is missing: .*copy both"):
            load_checkpoint(folder)
    cut = tmp_path / "cut"
    shutil.copytree(saved[1], cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_checkpoint(cut)
    strange = tmp_path / "strange"
    shutil.copytree(saved[1], strange)
    record = json.loads((strange / "config.json").read_text())
    record["model"]["colour"] = "red"
    (strange / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="unknown colour"):
        load_checkpoint(strange)
    record["model"].pop("colour")
    record["model"]["hidden"] = 256
    (strange / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_checkpoint(strange)
