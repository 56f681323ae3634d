"""``python -m amt.export``: what it writes, what it says, and what it leaves alone."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import amt
import amt.export.formats
from amt.export import ExportError, open_export
from amt.export.__main__ import main
from amt.export.crops import rows
from amt.export.differences import TOLERANCE_MM, differences
from amt.export.weights_file import block_matrices, choose, pack_folder
from amt.model import CheckpointError, load_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture
def exported(checkpoint, traced, tmp_path):
    """As torch.export writes it, two images at once."""
    out = tmp_path / "two"
    assert main([str(checkpoint), "--to", "torch-export", "--batch", "2", "--out", str(out)]) == 0
    return out


def test_an_export_says_all_about_itself(exported, expected):
    assert sorted(path.name for path in exported.iterdir()) == [
        "LICENSE",
        "NOTICE",
        "README.md",
        "export.json",
        "model.pt2",
    ]
    assert "Apache License" in (exported / "LICENSE").read_text()
    card = (exported / "README.md").read_text()
    assert "| wrist-aligned MPJPE, mm | 41.2 |" in card
    assert 'torch.export.load("two/model.pt2").module()' in card
    record = json.loads((exported / "export.json").read_text())
    assert record["metrics"]["wrist_aligned_mpjpe_mm"] == 41.25
    assert record["inputs"][0] == {
        "name": "image", "dtype": "uint8", "shape": [2, 3, 48, 48], "unit": "grey levels",
        "meaning": "the square crop around hand and object, RGB",
    }  # fmt: skip
    outputs = {entry["name"]: entry for entry in record["outputs"]}
    assert outputs.keys() == expected.keys()
    assert (outputs["joints"]["shape"], outputs["joints"]["unit"]) == ([2, 21, 3], "m")
    assert all(outputs[name]["shape"][1:] == list(array.shape[1:]) for name, array in expected.items())
    assert record["checked"]["largest_mm"] < TOLERANCE_MM
    assert record["preprocessing"]["normalisation"]["mean"] == [0.485, 0.456, 0.406]


def test_any_number_of_crops_goes_through_a_file_of_two(exported, crops, expected):
    export = open_export(exported)
    for count in (1, 2, 5):
        found = export(rows(crops, slice(count)))
        assert differences(rows(expected, slice(count)), found)["largest_mm"] < TOLERANCE_MM
    with pytest.raises(ExportError, match="right: missing among the inputs; there must be image, intrinsics, right"):
        export({name: array for name, array in crops.items() if name != "right"})
    with pytest.raises(
        ExportError, match=r"image: expected uint8 \[5, 3, 48, 48\], got uint8 \[5, 3, 24, 48\]; export\.json"
    ):
        export(crops | {"image": crops["image"][:, :, ::2]})
    with pytest.raises(ExportError, match=r"intrinsics: expected float32 \[5, 3, 3\], got float64"):
        export(crops | {"intrinsics": crops["intrinsics"].astype(np.float64)})
    with pytest.raises(
        ExportError, match=r"image: expected uint8 \[1 or more, 3, 48, 48\], got uint8 \[0, 3, 48, 48\]"
    ):
        export(rows(crops, slice(0)))


def test_fp8_weights_are_smaller_and_load_as_any_others(checkpoint, tmp_path, crops, expected):
    plain = tmp_path / "plain"
    assert main([str(checkpoint), "--to", "safetensors", "--out", str(plain)]) == 0
    before = (plain / "model.safetensors").stat().st_size
    names = block_matrices(load_checkpoint(plain)[0])
    pack_folder(plain, names)
    count = len(names)
    assert count >= 10
    assert (plain / "model.safetensors").stat().st_size < before - 3 * 192 * 192 * (count - 1)
    predictor = amt.load(plain, device="cpu")
    assert all(value.dtype == torch.float32 for value in predictor.model.parameters())
    exact, rounded = (load_checkpoint(folder)[0].state_dict() for folder in (checkpoint, plain))
    changed = [name for name in exact if not torch.equal(exact[name], rounded[name])]
    assert len(changed) == count
    for name in changed:  # e4m3 has three bits of fraction: half a step is 1 in 16
        assert (
            (exact[name] - rounded[name]).abs() <= exact[name].abs() / 16 + exact[name].abs().amax(1, True) / 448 / 64
        ).all()
    found = differences(expected, open_export(plain)(crops))
    assert 0 < found["joints_mm"] < 5


def test_as_many_matrices_are_fp8_as_the_limit_allows(model, crops):
    names = block_matrices(model)[::6]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    some = rows(crops, slice(2))
    assert set(choose(model, names, some, most_mm=1e6)) == set(names)
    assert choose(model, names, some, most_mm=0.0) == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_fp8_weights_without_their_scales_are_refused(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    assert main([str(checkpoint), "--to", "safetensors", "--out", str(tmp_path / "f")]) == 0
    pack_folder(tmp_path / "f", ["fusion.blocks.0.mlp.fc1.weight"])
    file = tmp_path / "f" / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith(".fp8_scale"))
    save_file({key: value for key, value in state.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=r"is FP8, and its scales .*\.fp8_scale are missing"):
        load_checkpoint(tmp_path / "f")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "aoti", "--precision", "int8"], "--to aoti has float32; int8 is written by --to openvino"),
        (["--to", "onnx", "--precision", "fp8"], "--to onnx has float32; fp8 is written by --to safetensors"),
        (["--to", "aoti", "--batch", "0"], "--batch must be a number of images from 1 to 1024, or dynamic; got '0'"),
        (["--to", "safetensors", "--batch", "99999999999"], "--batch must be a number of images from 1 to 1024"),
        (["--to", "onnx", "--device", "cuda"], "--device cuda: only --to aoti compiles for a device"),
        (["--to", "safetensors", "--crops", "1"], "--crops must be at least 2; got 1"),
        (["--to", "safetensors", "data.augment.turn=3"], "data.augment.turn has no effect in amt.export"),
    ],
)
def test_a_wrong_wish_is_one_line_and_writes_nothing(checkpoint, tmp_path, capsys, words, message):
    out = tmp_path / "out"
    assert main([str(checkpoint), "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("amt.export: ")
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_the_set_of_the_training_need_not_be_there(checkpoint, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint, moved)
    record = json.loads((moved / "config.json").read_text())
    record["data"] |= {"root": "somewhere/else", "mano": "somewhere/mano"}
    (moved / "config.json").write_text(json.dumps(record))
    assert main([str(moved), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 0
    assert main([str(moved), "--to", "safetensors", "--precision", "fp8", "--out", str(tmp_path / "fp8")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("x", "config.json: data and data.crop must be sections; copy the folder again"),
        ({"crop": [1]}, "config.json: data and data.crop must be sections"),
        ({"crop": {"num_points": -3}}, "data.crop.num_points must be 1 or more; got -3"),
    ],
)
def test_a_damaged_record_is_one_line(checkpoint, tmp_path, capsys, data, message):
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    record = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(record | {"data": data}))
    assert main([str(damaged), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_full_disk_leaves_the_earlier_export(checkpoint, tmp_path):
    """Files of at most 1 MB, in a process of its own."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("{}")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from amt.export.__main__ import main; sys.exit(main())"
    )
    words = [str(checkpoint), "--to", "safetensors", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=PAGE.parents[1], capture_output=True, text=True)
    assert done.returncode == 2
    assert "make room and try again" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "export.json").read_text() == "{}"


def test_a_package_that_is_not_installed_is_named_before_any_work(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(amt.export.formats, "find_spec", lambda name: None)
    assert main([str(checkpoint), "--to", "onnx", "--out", str(tmp_path / "o")]) == 2
    assert "the package onnx is not installed; pip install amt[export] brings it" in capsys.readouterr().err


def test_other_files_are_never_replaced(checkpoint, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main([str(checkpoint), "--to", "safetensors", "--out", str(tmp_path)]) == 2
    assert "holds other files; name a new folder, or that of an earlier export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("{}")  # an earlier export is
    assert main([str(checkpoint), "--to", "safetensors", "--out", str(out)]) == 0
    assert json.loads((out / "export.json").read_text())["format"] == "safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "out"]


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"holds no export\.json"):
        open_export(tmp_path)
    (tmp_path / "export.json").write_text("[]")
    with pytest.raises(ExportError, match="describes no export of this version"):
        open_export(tmp_path)
    (tmp_path / "export.json").write_text('{"format": "onnx", "inputs": [], "batch": 1}')
    with pytest.raises(ExportError, match=r"model\.onnx is missing"):
        open_export(tmp_path)


def test_the_page_shows_how_a_picture_becomes_joints_without_this_package(checkpoint, program, forward, monkeypatch):
    """The example of docs/export.md beside the predictor; the traced program stands in for ONNX Runtime."""

    class Session:
        def __init__(self, path, providers):
            assert path.endswith("model.onnx")

        def get_outputs(self):
            return [types.SimpleNamespace(name=name) for name in program.call_spec.out_spec.context]

        def run(self, names, given):
            two = {
                name: np.concatenate((array, array)) for name, array in given.items()
            }  # the program is of two images
            found = forward(**{name: torch.from_numpy(array) for name, array in two.items()})
            return [value.detach().numpy()[:1] for value in found.values()]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    code = PAGE.read_text().split("```python\n")[1].split("```")[0].replace("SIZE, POINTS = 112, 256", "SIZE = 48")
    assert len([line for line in code.splitlines() if line.strip()]) <= 35
    example = {}
    exec(code, example)
    random = np.random.default_rng(0)
    image = np.repeat(np.repeat(random.integers(0, 255, (60, 80, 3), np.uint8), 8, 0), 8, 1)
    K = np.array([[600.0, 0, 318], [0, 590, 236], [0, 0, 1]])
    points = (random.uniform(-1, 1, (32, 3)) * 0.04).astype(np.float32)
    predictor = amt.load(checkpoint, device="cpu", locator="window")
    for side, box in (("right", (300, 250, 110)), ("left", (350, 200, 300))):  # the second is averaged down first
        ours = predictor(image, K, box=box, side=side, object=points)
        theirs = example["hand_and_object"](image, K, box, points, right=side == "right")
        assert np.abs(ours.joints - theirs["joints"][0]).max() < 1e-5  # m
        assert np.abs(ours.object_translation - theirs["object_translation"][0]).max() < 1e-5
