"""The traced program: plain PyTorch's ops alone, every output of the network, in a process without this package."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from amt.export.crops import rows, tensors
from amt.export.differences import TOLERANCE_MM, differences
from amt.export.formats import ExportError
from amt.export.program import custom_ops, output_names
from amt.export.signature import BY_PATH, INPUTS, OUTPUTS
from amt.export.torch_files import write_program
from amt.hand.batch import Inputs

# runs in a process in which importing this package is an error
ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "amt", name
sys.meta_path.insert(0, Blocked())
import numpy as np, torch
crops = {name: torch.from_numpy(array) for name, array in np.load(sys.argv[2]).items()}
load = torch._inductor.aoti_load_package if sys.argv[1] == "aoti" else lambda path: torch.export.load(path).module()
with torch.inference_mode():
    found = load(sys.argv[3])(**crops)
np.savez(sys.argv[4], **{name: value.numpy() for name, value in found.items()})
assert not [name for name in sys.modules if name.partition(".")[0] == "amt"]
"""


def run_alone(form: str, folder, crops) -> dict[str, np.ndarray]:
    np.savez(folder / "crops.npz", **crops)
    words = [form, "crops.npz", "model.pt2", "found.npz"]
    done = subprocess.run([sys.executable, "-c", ALONE, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "found.npz"))


def test_the_program_has_no_op_of_this_package_and_all_outputs(program, expected):
    assert custom_ops(program) == []
    assert output_names(program) == list(expected)


def test_every_tensor_of_a_prediction_has_a_name(model, crops, expected):
    with torch.inference_mode():
        inputs = tensors(crops)
        unread = torch.zeros(5, 3, 3)
        fields = {entry.path: inputs[entry.name] for entry in INPUTS if entry.name in inputs}
        found = model(Inputs(box=unread[:, 0], frame_intrinsics=unread, frame_size=unread[:, 0, :2], **fields))
        paths = [path for path, _ in found.named_tensors()]
    assert {path for path in paths} <= set(BY_PATH)
    assert len({entry.name for entry in OUTPUTS}) == len(OUTPUTS) == len(BY_PATH)
    # a model may lack the scale of joints alone
    assert set(BY_PATH) - set(paths) == {"joint_scale"}
    for entry in OUTPUTS:
        if entry.name in expected:
            sizes = dict(zip(entry.shape, expected[entry.name].shape, strict=True))
            assert all(letter == size for letter, size in sizes.items() if isinstance(letter, int)), entry


def test_the_program_runs_in_a_process_without_this_package(program, crops, expected, tmp_path):
    write_program(program, tmp_path / "model.pt2")
    two = slice(3, 5)  # others than it was traced with, a left hand first
    found = run_alone("torch-export", tmp_path, rows(crops, two))
    assert differences(rows(expected, two), found)["largest_mm"] < TOLERANCE_MM


def test_differences_are_millimetres_and_a_missing_output_is_named(expected):
    moved = dict(expected, joints=expected["joints"] + np.float32((0.003, 0, 0.004)))
    found = differences(expected, moved)
    assert found["joints_mm"] == pytest.approx(5, rel=1e-4)
    assert found["joints_max_mm"] == pytest.approx(5, rel=1e-3)
    assert found["aligned_mm"] < 1e-3
    assert found["vertices_mm"] == found["object_mm"] == found["contact"] == 0
    with pytest.raises(ExportError, match=r"steps: the exported file gives nothing where the checkpoint gives \[5, 1"):
        differences(expected, {k: v for k, v in expected.items() if k != "steps"})
