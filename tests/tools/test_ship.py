"""tools.ship: a checkpoint becomes a folder of the package, rounded, scored, without paths or rows of frames."""

import json

import pytest
import torch
from safetensors.torch import load_file

from amt.data.synthetic.write import SetConfig, write_set
from amt.model import AMT, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.mean_pose import MeanPose
from tools import ship


@pytest.fixture
def checkpoint(tmp_path, make_batch):
    torch.manual_seed(0)
    model = AMT(ModelConfig(decoder_depth=1))
    record = {
        "train": {"seed": 3, "batch_size": 16, "precision": "bf16", "output": "/home/somebody/run"},
        "steps": 1000,
    }
    data = {"root": "/home/somebody/set", "split": "s1"}
    return save_checkpoint(tmp_path / "ck", model, MeanPose.of([make_batch(4)]), **record, data=data)


def test_what_ships(checkpoint, tmp_path, capsys):
    write_set(tmp_path / "set", SetConfig(subjects=9, sequences=1, frames=1), workers=1, progress=False)
    assert ship.main([str(checkpoint), str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    shipped, _ = load_checkpoint(tmp_path / "out")
    whole, _ = load_checkpoint(checkpoint)
    for name, value in whole.state_dict().items():
        rounded = value.bfloat16().float() if value.dim() > 1 and value.is_floating_point() else value
        assert torch.equal(shipped.state_dict()[name], rounded), name
    means = {k: v for k, v in load_file(checkpoint / "model.safetensors").items() if k.startswith("mean_pose.")}
    assert means
    assert all(torch.equal(load_file(tmp_path / "out" / "model.safetensors")[k], v) for k, v in means.items())
    text = (tmp_path / "out" / "config.json").read_text()
    assert "/home" not in text
    assert str(tmp_path) not in text
    assert json.loads(text)["license"] == "Apache-2.0"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Samples: 16,000, of which 1,000 steps of 16 images in the last piece, bf16" in card
    assert "wrist-aligned MPJPE" in card


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path, capsys):
    assert ship.main([str(tmp_path / "nothing"), str(tmp_path)]) == 2
    assert "nothing: no such checkpoint folder" in capsys.readouterr().err
