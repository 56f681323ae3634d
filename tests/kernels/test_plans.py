"""Triton's calls as plans: against Triton's own launcher on a stand-in for CUDA's driver, and on a card against its bits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import compiled
from plans_cases import CASES

from amt.kernels import _native, _plans, _triton, aot, aot_shapes

HERE = Path(__file__).parent
needs_library = pytest.mark.skipif(_native.missing_op("plan_run") is not None, reason="needs the native library")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    """The folder of a libcuda.so.1 that writes launches down."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source, library = HERE / "cuda_driver_stand_in.c", folder / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *options, "-o", library, source], check=True)
    return folder


# the others, "refine, one kernel" and "steps not detached", compile for 20 s: `python tests/kernels/plans_on_stand_in.py FOLDER`
LAUNCHED = {
    "attention": "1 launches, 3 tensors",
    "attention backward": "1 launches, 8 tensors",
    "frame_pointnet": "2 launches, 13 tensors",
    "frame_pointnet backward": "2 launches, 16 tensors",
    "hand_frames": "1 launches, 3 tensors",
    "pose_scores": "1 launches, 8 tensors",
    "pose_scores backward": "2 launches, 9 tensors",
    "add_norm": "1 launches, 8 tensors",
    "add_norm backward, without a branch": "1 launches, 9 tensors",
    "refine, two kernels": "4 launches, 11 tensors",
    "refine backward": "10 launches, 26 tensors",
}


@compiled
@needs_library
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton takes the card's driver")
def test_plans_launch_what_triton_launches(stand_in):
    """The same cubins, grids, threads, shared memory and bytes of arguments, and addresses in the same tensors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])}
    command = [sys.executable, HERE / "plans_on_stand_in.py", stand_in, *LAUNCHED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"{said}: {launched}" for said, launched in LAUNCHED.items()]


class NoCubins:
    """In the place of a folder's: no kernel was compiled."""

    def find(self, launch):
        return None


@pytest.fixture
def on_cpu(stand_in, monkeypatch):
    """Plans for tensors on the CPU, whose kernels nobody compiled."""
    monkeypatch.setitem(_plans._cubins, torch.device("cpu"), NoCubins())
    monkeypatch.setattr(_plans, "_refusals", {})
    monkeypatch.setattr(_plans, "_seen", set())
    # a plan needs a context: that of a kernel which is loaded
    assert not torch.ops.amt.plan_driver.default(str(stand_in / "libcuda.so.1"))


def steps_between_launches(x, parts, factor):
    """What host sides do beside launches."""
    buffer = x.new_zeros(3, *x.shape)
    buffer[1:, :, :2] = x[:, :2].to(torch.float32)
    joined = torch.cat([x[:, None], *(part[:, None] for part in parts)], dim=1)
    return buffer[1:], joined, [joined.sum(dim=1), buffer.sum((0, 1)).to(torch.bfloat16)], x.mT.contiguous()


KEPT = torch.randn(4)
needs_triton = pytest.mark.skipif(not _triton.INSTALLED, reason="needs Triton")


@needs_library
@needs_triton
def test_the_second_call_is_planned_and_the_third_gives_its_bits(on_cpu):
    calls = []

    def counted(*values):
        calls.append(values[0].device.type)
        return steps_between_launches(*values)

    call = _plans.planned("steps", rebuild=lambda r: (r[0], r[1], r[2:-1], r[-1]))(counted)
    x, parts = torch.randn(4, 6), [torch.randn(4, 6), torch.randn(4, 6)]
    expected = steps_between_launches(x, parts, 0.5)
    for _ in range(4):
        found = call(x, parts, 0.5)
        for one, other in zip(_plans._tensors(found), _plans._tensors(expected), strict=True):
            assert torch.equal(one, other)
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())
    assert calls == ["cpu", "meta", "cpu"]  # the second was recorded first
    assert torch.equal(call(x + 1, parts, 0.5)[1][:, 0], x + 1)  # other numbers, the same plan
    assert len(calls) == 3
    call(x[:3], [part[:3] for part in parts], 0.5)  # another shape
    call(x, parts, 0.25)  # another number
    call(x.double(), [part.double() for part in parts], 0.5)
    assert calls[3:] == ["cpu"] * 3


@needs_library
@needs_triton
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.clone().mul_(2), "it calls aten.mul_.Tensor"),
        (lambda x: x.flip(0), "it calls aten.flip.default"),
        (lambda x: x, "it returns an input"),
        (lambda x: KEPT.clone(), "it reads a tensor that is neither given nor made in the call"),
    ],
)
def test_what_cannot_be_planned_says_why_and_is_called(on_cpu, function, reason):
    op = f"refused, {reason}"
    call, x = _plans.planned(op, rebuild=lambda r: r[0])(function), torch.randn(4)
    for _ in range(3):
        assert torch.equal(call(x), function(x))
    assert _plans._refusals[op] == reason


@needs_library
@needs_triton
def test_an_input_that_is_not_aligned_is_not_planned(on_cpu):
    call, x = _plans.planned("unaligned", rebuild=lambda r: r[0])(torch.clone), torch.arange(9.0)
    for _ in range(3):
        assert torch.equal(call(x[1:]), x[1:])
    assert _plans._refusals == {"unaligned": "an input is not aligned to 16 bytes"}
    for _ in range(3):
        assert torch.equal(call(x[:8]), x[:8])
    assert len(_plans._refusals) == 1


@needs_library
@needs_triton
def test_a_dtype_and_what_is_none_make_other_kinds(on_cpu):
    calls = []

    def host(x, y, z, dtype):
        calls.append(x is None)
        return (torch.cat([t for t in (x, y, z) if t is not None]).to(dtype),)

    call, a, b = _plans.planned("optional")(host), torch.ones(4), torch.full((4,), 2.0)
    for given in ((None, a, b), (a, None, b), (a, b, None)):
        for dtype in (torch.float64, torch.bfloat16):
            for _ in range(4):
                (found,) = call(*given, dtype)
                assert torch.equal(found, torch.cat((a, b)).to(dtype))
    assert len(calls) == 3 * 6  # each kind is called, recorded and called again; then it is a plan
    assert _plans._refusals == {}


@needs_library
@needs_triton
def test_a_launch_without_a_cubin_is_not_planned(on_cpu):
    _, (kernel, *_) = next(aot_shapes.launches("hand_frames"))

    def host(x):
        out = torch.empty_like(x)
        _triton.launcher(("x",))(kernel, (1,), x, out, out, 1, warps=2, BLOCK=8)
        return out

    with pytest.raises(_plans.NoPlan, match=r"no cubin of forward_kernel was compiled for these arguments"):
        _plans.record(host, (torch.ones(4),), NoCubins())


def test_the_state_is_said(tmp_path, monkeypatch):
    assert _plans.state(torch.device("cpu")) == "off: it needs a CUDA card"
    with pytest.raises(ValueError, match=r"there is no .*manifest.json: run `python -m amt.kernels.aot`"):
        _plans.Cubins(tmp_path, "sm_90")
    (tmp_path / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match=r"is no manifest of kernels \(schema 1, expected 2\): run"):
        _plans.Cubins(tmp_path, "sm_90")
    (tmp_path / "manifest.json").write_text('{"schema": 2, "triton": "1.0", "kernels": []}')
    with pytest.raises(ValueError, match=r"Triton 1.0 compiled .*, here is"):
        _plans.Cubins(tmp_path, "sm_90")


@needs_library
def test_a_driver_that_is_not_there_is_a_reason():
    assert "no-such-library.so" in torch.ops.amt.plan_driver.default("no-such-library.so")
    assert "has no cu" in torch.ops.amt.plan_driver.default("libc.so.6")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("said", CASES)
def test_cubins_and_jit_give_the_same_bits(said, tmp_path, monkeypatch):
    op, run_on_device = CASES[said]
    major, minor = torch.cuda.get_device_capability()
    monkeypatch.setitem(aot_shapes.OPS, op, lambda: [(said, run_on_device("meta"))])
    aot.build(tmp_path, [f"sm_{major}{minor}"], [op], say=lambda line: None)
    device = torch.device("cuda", torch.cuda.current_device())
    monkeypatch.setattr(_plans, "folder", lambda: tmp_path)
    monkeypatch.setattr(_plans, "_refusals", {})
    call = run_on_device("cuda")
    monkeypatch.setitem(_plans._cubins, device, None)
    expected = call()
    monkeypatch.delitem(_plans._cubins, device)
    for _ in range(3):
        results = call()
    assert _plans._refusals == {}
    for one, other in zip(_plans._tensors(results), _plans._tensors(expected), strict=True):
        assert torch.equal(one, other)
