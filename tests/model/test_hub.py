"""from_pretrained, save_pretrained and push_to_hub: one format, a card, and one clear line where the hub cannot be had."""

import json
import shutil
from unittest.mock import create_autospec

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

import amt
from amt.locate import Located
from amt.model import AMT, CheckpointError, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.card import model_card
from amt.model.checkpoint import load_mean_pose
from amt.model.mean_pose import MeanPose

SMALL = {"refine_steps": 1, "decoder_depth": 1}
METRICS = {
    "data": "synthetic", "split": "s1", "subset": "test", "protocol": "T", "box": "true", "frames": 96,
    "wrist_aligned_mpjpe_mm": 41.25, "rotation_median_deg": 61.0, "contact_f1": 0.5, "object_contact_f1": 0.25,
    "baseline": {"wrist_aligned_mpjpe_mm": 63.0, "contact_f1": 0.4},
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
    assert "| contact F1, hand vertices (mean pose: the best constant mask) | 0.500 | 0.400 |" in card
    assert "| object rotation, median, degrees | 61.0 |  |" in card
    assert "| contact F1, object points | 0.250 |  |" in card
    assert "license" not in head
    assert "stand under its terms as well" in card
    fresh = (AMT(ModelConfig(**SMALL)).save_pretrained(tmp_path / "fresh") / "README.md").read_text()
    assert "Nobody has evaluated these weights." in fresh


def test_the_cards_example_runs(trained, tmp_path, monkeypatch):
    class OneHand:
        def locate_many(self, images):
            return [[Located(np.array((160.0, 120.0, 90.0)), "left", 0.9)] for _ in images]

    card = (AMT.from_pretrained(trained).save_pretrained(tmp_path / "mine") / "README.md").read_text()
    example = card.split("```python\n")[1].split("```")[0]
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    names = {"image": image, "intrinsics": (310.0, 305.0, 158.0, 121.0)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("amt.infer.predictor.choose_finder", lambda *_: OneHand())
    exec(example, names)
    assert [hand.side for hand in names["hands"]] == ["left"]
    assert eval(example.strip().splitlines()[-1], names).shape == (21, 3)


def test_a_licence_stands_in_the_card_where_the_record_names_one(trained, tmp_path):
    model = AMT.from_pretrained(trained)
    card = (model.save_pretrained(tmp_path / "mine", license="Apache-2.0") / "README.md").read_text()
    assert "license: apache-2.0" in card.split("---")[1].splitlines()
    assert "The weights stand under Apache-2.0." in card
    assert "its terms" not in card
    words = model_card("mine", {"model": {"hand": "amt"}, "license": "my own: ask me"})
    assert "license:" not in words.split("---")[1]  # the head is YAML
    assert "The weights stand under my own: ask me." in words
    mano = model_card("mine", {"model": {"hand": "MANO_RIGHT.pkl"}, "license": "Apache-2.0"})
    assert "license:" not in mano.split("---")[1]
    assert "The weights stand under Apache-2.0, and under MANO's terms as well." in mano


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
