"""hand_frames' CUDA kernels without a GPU: on the host (lanes, sums, indices), and through nvcc. The GPU's own tests are in
test_hand_frames_op.py."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from frames_cases import degenerate_hands, posed_hands, random_hands, straight_hands
from helpers import assert_error_rule
from test_hand_frames_op import results

from amt.kernels.hand_frames import reference

CSRC = Path(__file__).parents[2] / "csrc"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def host_library(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    path = tmp_path_factory.mktemp("frames") / "frames_on_host.so"
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-DAMT_CUDA_ON_HOST", f"-I{CSRC}", f"-I{HERE}"]
    subprocess.run(["g++", *flags, HERE / "frames_cuda_on_host.cpp", "-o", path], check=True)
    return ctypes.CDLL(str(path))


class OnHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, library, joints):
        ctx.library, ctx.joints = library, joints.detach()
        origins, r = (torch.full((len(joints), *s), torch.nan, dtype=joints.dtype) for s in ((22, 3), (22, 3, 3)))
        _call(library, "forward", ctx.joints, origins, r)
        return origins, r

    @staticmethod
    def backward(ctx, grad_origins, grad_rotations):
        gradient = torch.full_like(ctx.joints, torch.nan)
        _call(ctx.library, "backward", grad_origins, grad_rotations, ctx.joints, gradient)
        return None, gradient


def _call(library, name, *tensors):
    function = getattr(library, f"{name}_{'double' if tensors[0].dtype == torch.float64 else 'float'}")
    function(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), ctypes.c_int64(len(tensors[0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 15, 16, 37])
def test_error_rule_on_the_host(host_library, batch, dtype):
    joints = torch.cat([posed_hands(batch), straight_hands(batch), random_hands(batch)])[::3].to(dtype).contiguous()
    ours = results(lambda j: OnHost.apply(host_library, j), joints)
    truth = results(reference.hand_frames, joints.double())
    assert_error_rule(ours, truth, results(reference.hand_frames, joints))


def test_degenerate_hands_on_the_host(host_library):
    joints = torch.cat(list(degenerate_hands().values()))
    ours = results(lambda j: OnHost.apply(host_library, j), joints)
    for x, y in zip(ours, results(reference.hand_frames, joints)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_nvcc_compiles_without_warnings_or_spills(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    include = Path(torch.__file__).parent / "include"
    command = [
        nvcc, "-std=c++20", "-O3", "-isystem", include, f"-I{CSRC}", "-DTORCH_TARGET_VERSION=0x020b000000000000",
        "-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a", "--threads=2",
        "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-Wall", "-Werror=all-warnings", "-Xptxas=-v",
        "-c", CSRC / "hand_frames" / "cuda_frames.cu", "-o", tmp_path / "hand_frames.o",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(spills) == 8  # forward and backward, float and double, two architectures
    assert set(spills) == {("0", "0", "0")}
