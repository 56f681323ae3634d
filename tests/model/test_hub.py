"""from_pretrained, save_pretrained and push_to_hub: one format, a card, and one clear line where the hub cannot be had."""

import json
import shutil
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

import amt
from amt.model import AMT, CheckpointError, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.checkpoint import load_mean_pose
from amt.model.mean_pose import MeanPose

SMALL = {"refine_steps": 1, "decoder_depth": 1}
METRICS = {
    "data": "synthetic", "split": "s1", "subset": "test", "protocol": "T", "box": "true", "frames": 96,
    "wrist_aligned_mpjpe_mm": 41.25, "contact_f1": 0.5,
    "baseline": {"wrist_aligned_mpjpe_mm": 63.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_batch):
    """A folder as amt.train and amt.evaluate leave it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("hub") / "checkpoint"
    record = {
        "data": {"root": "/home/somebody/dexycb", "split": "s1"},
        "train": {"batch_size": 16, "output": "/tmp/o"},
        "steps": 7,
    }
    save_checkpoint(folder, AMT(ModelConfig(**SMALL)), MeanPose.of([make_batch(4)]), **record)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_door_opens_the_same_model(trained, tmp_path):
    model = AMT.from_pretrained(trained)
    assert not model.training
    assert same_weights(model, load_checkpoint(trained)[0])
    assert same_weights(model, amt.load(trained, device="cpu").model)
    folder = model.save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    again = AMT.from_pretrained(folder)
    assert same_weights(model, again)
    assert again.config == model.config
    assert json.loads((folder / "config.json").read_text()) == json.loads((trained / "config.json").read_text())
    before, after = load_mean_pose(trained).tensors(), load_mean_pose(folder).tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert same_weights(amt.load(folder, device="cpu").model, model)


def test_the_card_says_what_it_is_and_how_good(trained, tmp_path):
    card = (AMT.from_pretrained(trained).save_pretrained(tmp_path / "mine") / "README.md").read_text()
    head = card.split("---")[1]
    assert "library_name: amt" in head
    assert 'amt.load("mine")' in card
    assert "- size: tiny" in card
    assert "- hand: AMT's own" in card
    assert "On synthetic images, split s1 test, protocol T, true box, 96 frames." in card
    assert "| wrist-aligned MPJPE, mm | 41.2 | 63.0 |" in card
    assert "| contact F1, hand vertices | 0.500 |  |" in card
    fresh = (AMT(ModelConfig(**SMALL)).save_pretrained(tmp_path / "fresh") / "README.md").read_text()
    assert "Nobody has evaluated these weights." in fresh


class Hub:
    """Two calls of the hub's client, on folders."""

    def __init__(self, store):
        self.store, self.calls = store, []

    def create_repo(self, name, private=None, exist_ok=False):
        self.calls.append(("create", name, private, exist_ok))
        (self.store / name).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{name}"

    def upload_folder(self, repo_id, folder_path, revision=None, commit_message=None):
        self.calls.append(("upload", repo_id, revision, commit_message))
        shutil.copytree(folder_path, self.store / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, name, revision=None, allow_patterns=None):
        self.calls.append(("download", name, revision, sorted(allow_patterns)))
        if not (self.store / name).is_dir():
            raise LocalEntryNotFoundError("cannot find the files on the Hub.\nCheck your connection.")
        return str(self.store / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Calls that the client's own functions would not take are errors."""
    made, real = Hub(tmp_path / "hub"), huggingface_hub.HfApi

    class Api:
        create_repo = create_autospec(real.create_repo, side_effect=lambda _, *a, **k: made.create_repo(*a, **k))
        upload_folder = create_autospec(real.upload_folder, side_effect=lambda _, *a, **k: made.upload_folder(*a, **k))

    download = create_autospec(huggingface_hub.snapshot_download, side_effect=made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: Api())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return made


def test_what_is_pushed_comes_back(trained, hub):
    model = AMT.from_pretrained(trained)
    assert model.push_to_hub("somebody/amt-tiny", private=True) == "https://hub/somebody/amt-tiny"
    assert hub.calls[0] == ("create", "somebody/amt-tiny", True, True)
    again = AMT.from_pretrained("somebody/amt-tiny", revision="v1")
    assert hub.calls[-1][:3] == ("download", "somebody/amt-tiny", "v1")
    assert same_weights(model, again)
    assert same_weights(amt.load("somebody/amt-tiny", device="cpu").model, model)
    record = again.origin.record
    assert record["data"]["root"] == "dexycb"  # no path of the machine that trained
    assert record["train"]["output"] == "o"
    assert 'amt.load("somebody/amt-tiny")' in (hub.store / "somebody/amt-tiny/README.md").read_text()


def test_without_a_network_one_line_says_so(hub):
    message = r"nobody/amt: no such folder here, and as a name on the Hugging Face Hub: cannot find the files .*network"
    for door in (AMT.from_pretrained, amt.load):
        with pytest.raises(CheckpointError, match=message) as caught:
            door("nobody/amt")
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint folder"):
        AMT.from_pretrained("nowhere")


def test_a_refusal_of_the_hub_and_a_wrong_name_are_one_line(trained, hub, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(
            "403 Forbidden: no rights to create a model under somebody.\nMake sure your token is right."
        )

    model = AMT.from_pretrained(trained)
    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=r"somebody/amt: 403 Forbidden.*`hf auth login`"):
        model.push_to_hub("somebody/amt")
    with pytest.raises(CheckpointError, match="'amt' is no name on the Hugging Face Hub; give owner/model"):
        model.push_to_hub("amt")
    assert issubclass(RepositoryNotFoundError, OSError)  # what the client raises is caught by its kind


def test_a_checkpoint_with_a_card_can_be_replaced(trained, tmp_path):
    model = AMT.from_pretrained(trained)
    folder = model.save_pretrained(tmp_path / "mine")
    save_checkpoint(folder, model)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds other files \(notes\.txt\)"):
        model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]
