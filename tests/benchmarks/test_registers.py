"""The table of registers: what the manifest says and no more, and that no kernel spills."""

import json

import pytest

from benchmarks import registers


def entry(architecture="sm_90", **changes):
    figures = {"registers": 113, "spills": False, "shared": 49152, "matrix": ["HGMMA"], "cubin": "x.cubin"}
    kernel = {"op": "attention", "shape": "257 tokens", "kernel": "forward_kernel", "warps": 8, "stages": 2}
    return {**kernel, "architecture": architecture, **figures, **changes}


def test_a_manifest_becomes_a_table(tmp_path):
    manifest, path = tmp_path / "manifest.json", tmp_path / "aot" / "sm_90.json"
    kernels = [
        entry(),
        entry(registers=128, shape="577 tokens"),
        entry("sm_80"),
        entry(kernel="other_kernel", matrix=[], spills=True),
        {**entry(), "left_out": "why"},
    ]
    manifest.write_text(json.dumps({"schema": 1, "triton": "3.7.1", "kernels": kernels}))
    assert registers.take(manifest, path) == 3
    assert registers.table(path).splitlines()[2:] == [
        "| `attention` | forward | 2 | 113 to 128 | 49,152 | HGMMA |",
        "| `attention` | other | 1 | 113, spills | 49,152 | – |",
    ]
    with pytest.raises(ValueError, match=r"none.json: cannot be read .* run `python -m amt.kernels.aot`"):
        registers.table(tmp_path / "none.json")


def test_what_is_no_manifest_is_one_line(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert registers.main([str(tmp_path / "x.json")]) == 2
    assert "is no manifest" in capsys.readouterr().err


def test_no_kernel_spills_and_products_are_hoppers():
    kernels = json.loads(registers.FILE.read_text())["kernels"]
    assert {k["op"] for k in kernels} == {
        "refine",
        "hand_frames",
        "frame_pointnet",
        "pose_scores",
        "attention",
        "attention_fp8",
        "block",
    }
    assert not [k["kernel"] for k in kernels if k["spills"]]
    wanted = {
        "attention": {"forward_kernel", "backward_kernel"},
        "attention_fp8": {"prepare_kernel"},
        "block": {"linear_gelu_kernel"},
    }
    for k in kernels:
        if k["kernel"] in wanted.get(k["op"], ()):
            assert "HGMMA" in k["matrix"], k
        if k["kernel"] == "fp8_kernel":
            assert k["matrix"] == ["QGMMA"], k
