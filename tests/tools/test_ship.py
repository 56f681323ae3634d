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
    scenes = SetConfig(subjects=9, independent=7, held_out=1, frames=1, seed=2)
    write_set(tmp_path / "set", scenes, workers=1, progress=False)
    out = ["--out", str(tmp_path / "out")]
    assert ship.main([str(checkpoint), str(tmp_path / "set"), *out, "--earlier", "5000"]) == 0
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
    assert "Samples: 21,000, of which 1,000 steps of 16 images in the last piece, bf16" in card
    assert "Earlier pieces (5,000 samples) may have seen fewer scenes" in card
    assert "7 frames of 7 grasps, rendered by" in card
    assert "of each are drawn anew" in card
    assert "Seeds: 3 of the weights, 2 of the scenes" in card
    assert "16 frames of 2 grasps by other people, seen by 8 cameras" in card
    assert "license: apache-2.0" in card.split("---")[1].splitlines()
    assert "its terms" not in card
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    off = figures["wrist_aligned_mpjpe_mm"]
    assert f"| wrist-aligned MPJPE, mm | {off:.1f} | 15.0 | {off - 15:.1f} |" in card


def test_the_goals_and_by_how_much_they_are_missed():
    figures = {
        "wrist_aligned_mpjpe_mm": 19.5, "procrustes_mpjpe_mm": 6.9, "adds_mm": 29.0, "rotation_median_deg": 71.25,
        "contact_f1": 0.576, "object_contact_f1": 0.25, "baseline": {"contact_f1": 0.521},
    }  # fmt: skip
    rows = ship.goals(figures).splitlines()[2:]
    assert rows == [
        "| wrist-aligned MPJPE, mm | 19.5 | 15.0 | 4.5 |",
        "| Procrustes MPJPE, mm | 6.9 | 7.0 | met |",
        "| object ADD-S, mm | 29.0 | 25.0 | 4.0 |",
        "| object rotation, median, degrees | 71.2 | 30.0 | 41.2 |",
        "| contact F1, hand vertices | 0.576 | 0.671 | 0.095 |",
        "| contact F1, object points | 0.250 | 0.400 | 0.150 |",
    ]
    del figures["rotation_median_deg"]  # metrics.json of an earlier version
    assert len(ship.goals(figures).splitlines()) == 7


@pytest.mark.parametrize("held", ["notes.txt", "samples.csv", "runs/last.txt"])
def test_a_folder_with_other_files_is_left_alone(held, checkpoint, tmp_path, capsys):
    kept = tmp_path / "out" / held
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert ship.main([str(checkpoint), str(tmp_path / "no set"), "--out", str(tmp_path / "out")]) == 2
    message = f"out: holds other files ({held.split('/')[0]}); name a new folder\n"
    assert capsys.readouterr().err.endswith(message)
    assert kept.read_text() == "mine"


def test_the_checkpoint_itself_is_not_rounded(checkpoint, tmp_path, capsys):
    assert ship.main([str(checkpoint), str(tmp_path / "no set"), "--out", str(checkpoint)]) == 2
    assert "is the checkpoint itself" in capsys.readouterr().err


def test_a_negative_number_of_samples_is_one_line(checkpoint, tmp_path, capsys):
    words = ["--out", str(tmp_path / "out"), "--earlier", "-5"]
    assert ship.main([str(checkpoint), str(tmp_path / "no set"), *words]) == 2
    assert "--earlier -5: must be 0 or more" in capsys.readouterr().err


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path, capsys):
    assert ship.main([str(tmp_path / "nothing"), str(tmp_path)]) == 2
    assert "nothing: no such checkpoint folder" in capsys.readouterr().err
