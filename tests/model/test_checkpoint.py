"""Checkpoint folders: bit-identical there and back, and one clear line for each way to be broken."""

import hashlib
import json

import pytest
import torch

from amt.model import AMT, CheckpointError, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.checkpoint import load_mean_pose
from amt.model.mean_pose import MeanPose


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
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one may read the other


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


def test_the_mean_pose_comes_back_bit_identical_and_older_checkpoints_have_none(saved, tmp_path, make_batch):
    model, folder = saved
    assert load_mean_pose(folder) is None
    mean_pose = MeanPose.of([make_batch(6, left=True)])
    with_it = save_checkpoint(tmp_path / "checkpoint", model, mean_pose)
    again = load_mean_pose(with_it).tensors()
    assert {name: value.dtype for name, value in again.items() if value.dtype != torch.float32} == {
        "hand_contact": torch.bool
    }
    assert all(torch.equal(value, again[name]) for name, value in mean_pose.tensors().items())
    state = load_checkpoint(with_it)[0].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_replaces_a_checkpoint_and_nothing_else(saved, tmp_path):
    model, _ = saved
    folder = save_checkpoint(tmp_path / "checkpoint", model, steps=1)
    (folder / "metrics.json").write_text("{}")
    save_checkpoint(folder, model, steps=2)
    assert load_checkpoint(folder)[1]["steps"] == 2
    assert not (folder / "metrics.json").exists()  # the figures of other weights
    (folder / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match=r"holds other files \(thesis\.tex\); name a new folder"):
        save_checkpoint(folder, model, steps=3)
    assert load_checkpoint(folder)[1]["steps"] == 2


def test_checkpoints_of_earlier_versions_still_fit():
    """Their names and shapes are these. Where a parameter has to be renamed, ``load_checkpoint`` must map the old name.

    A configuration from before the visibility head has no such key.
    """
    digests = {}
    for name, switches in (
        ("all", {}),
        ("few", {"hand_frames": False, "contact_tokens": False, "refine_shared": True}),
    ):
        with torch.device("meta"):
            state = AMT(ModelConfig.from_dict(switches)).state_dict()
        text = "\n".join(f"{key} {list(tensor.shape)}" for key, tensor in sorted(state.items()))
        digests[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digests == {"all": "ca841b14f1882150", "few": "99998e2716d34b5b"}
