"""Kernels compiled ahead of time: the command, its manifest, and the code of the ops that no other test compiles."""

import hashlib
import json

import pytest
import torch
from helpers import compiled

from amt.kernels import _triton, aot, aot_shapes
from amt.kernels._cubins import ARCHITECTURES, SCHEMA
from amt.kernels._triton import Launch, recorded


@compiled
def test_the_command_writes_cubins_and_a_manifest(tmp_path, capsys):
    assert aot.main(["hand_frames", "--output", str(tmp_path)]) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    found = {(k["kernel"], k["architecture"]): k for k in manifest["kernels"]}
    assert set(found) == {(f"{p}_kernel", a) for p in ("forward", "backward") for a in ("sm_90", "sm_80")}
    for entry in found.values():
        cubin = (tmp_path / entry["cubin"]).read_bytes()
        assert cubin[:4] == b"\x7fELF"
        assert hashlib.sha256(cubin).hexdigest() == entry["sha256"]
        assert 0 < entry["registers"] <= 255
        assert (entry["spills"], entry["stack"], entry["shape"]) == (False, 0, "B 512")
    assert "4 kernels" in capsys.readouterr().out


@compiled
@pytest.mark.parametrize("shape", ["1024 channels, e4m3", "1024 to 4096 channels, 4112 rows"])
def test_block_on_sm_90(shape):
    kernels = {launch.kernel.fn.__name__: launch for said, launch in aot_shapes.launches("block") if said == shape}
    assert kernels
    for name, launch in kernels.items():
        code = aot.compile_launch(launch)
        assert not code.spills, name
        assert code.matrix == (("HGMMA",) if name == "linear_gelu_kernel" else ())


@compiled
def test_pose_scores_on_sm_90():
    for _, launch in aot_shapes.launches("pose_scores"):
        code, name = aot.compile_launch(launch), launch.kernel.fn.__name__
        assert not code.spills, name
        assert code.matrix == (("HMMA",) if name == "gradient_kernel" else ())
        if name == "forward_kernel":  # the warps' sums alone: no tap goes from thread to thread
            assert code.shared == 4 * launch.warps * launch.constants["BLOCK_POSES"]


@compiled
@pytest.mark.parametrize("side", [27, 56])
@pytest.mark.parametrize("architecture", [90, 80])
def test_gradients_of_other_maps_do_not_spill(side, architecture):
    from amt.kernels.pose_scores import triton

    geometry = [aot_shapes.empty(8, *shape) for shape in ((128, 3), (128, 3), (300, 3, 3), (300, 3), (3, 3))]
    with recorded() as launches:
        triton.backward(aot_shapes.empty(8, 300), *geometry, 112, 112, side, side)
    assert not aot.compile_launch(launches[-1], architecture).spills


@compiled
def test_cards_before_hopper_have_tiles_of_their_own():
    """sm_80 has no HGMMA: a product's operands lie in registers, and Hopper's tiles would spill."""
    found = {(said, x.kernel.fn.__name__): x for said, x in aot_shapes.launches("attention", ARCHITECTURES["sm_80"])}
    for key in (("577 tokens, heads of 64", "forward_kernel"), ("257 tokens, heads of 128", "backward_kernel")):
        code = aot.compile_launch(found[key], 80)
        assert not code.spills, key
        assert code.matrix == ("HMMA",)
        assert code.shared <= aot.MOST_SHARED["sm_80"]


@compiled
def test_a_kernel_that_needs_too_much_shared_memory_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(aot.MOST_SHARED, "sm_90", -1)
    assert aot.main(["hand_frames", "--architecture", "sm_90", "--output", str(tmp_path)]) == 1
    assert "2 of them need more shared memory" in capsys.readouterr().err


@compiled
def test_a_kernel_that_spills_is_an_error(tmp_path, monkeypatch, capsys):
    ((_, launch), *_) = aot_shapes.launches("hand_frames")
    monkeypatch.setattr(aot_shapes, "launches", lambda op, card: [("B 512", launch._replace(warps=1, registers=32))])
    assert aot.main(["hand_frames", "--architecture", "sm_90", "--output", str(tmp_path)]) == 1
    assert "1 of them spill registers" in capsys.readouterr().err
    assert json.loads((tmp_path / "manifest.json").read_text())["kernels"][0]["spills"]


@compiled
def test_a_kernel_of_e4m3_numbers_is_left_out_below_sm_89(tmp_path):
    ((_, launch), *_) = aot_shapes.launches("hand_frames")
    entry = {"op": "x", "kernel": "y", "architecture": "sm_80"}
    e4m3 = Launch(launch.kernel, (torch.empty(1, dtype=torch.float8_e4m3fn, device="meta"),), {}, 4, 1, None)
    assert aot._compiled(e4m3, 80, tmp_path, entry)["left_out"] == "e4m3 products came with sm_89"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not _triton.INSTALLED, reason="needs Triton")
@pytest.mark.parametrize(
    "damaged", ['{"schema"', "[1]", "", '{"schema": %d, "triton": "%s", "kernels": 3}', "{}", "\xff"]
)
def test_a_damaged_manifest_is_written_anew(tmp_path, monkeypatch, damaged):
    import triton

    path = tmp_path / "manifest.json"
    path.write_bytes((damaged % (SCHEMA, triton.__version__) if "%" in damaged else damaged).encode("latin1"))
    monkeypatch.setattr(aot_shapes, "launches", lambda op, card: [])
    assert aot.build(tmp_path, ["sm_90"], ["hand_frames"], say=None) == []
    assert json.loads(path.read_text()) == {"schema": SCHEMA, "triton": triton.__version__, "kernels": []}


@pytest.mark.skipif(not _triton.INSTALLED, reason="needs Triton")
def test_what_is_recorded_is_not_launched():
    with recorded() as launches:
        _triton.launcher(("x",))(
            next(iter(aot_shapes.launches("hand_frames")))[1].kernel, (1,), 1, 2, 3, 4, warps=2, BLOCK=8
        )
    assert [(launch.arguments, launch.constants, launch.warps) for launch in launches] == [
        ((1, 2, 3, 4), {"BLOCK": 8}, 2)
    ]
    assert isinstance(_triton.launcher(("x",)), _triton.Launcher)


def test_words_are_checked(capsys):
    assert aot.main(["everything"]) == 2
    assert (
        "op must be one of refine, hand_frames, frame_pointnet, pose_scores, attention, attention_fp8, block; got"
        in capsys.readouterr().err
    )
