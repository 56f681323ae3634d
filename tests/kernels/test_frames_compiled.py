"""hand_frames' and frame_pointnet's GPU kernels without a GPU: Triton's code for sm_90, and hand_frames' CUDA kernels on the host
(lanes, sums, indices) and through nvcc. The GPU's own tests stand in test_hand_frames.py and test_frame_pointnet.py.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from frames_cases import degenerate_hands, posed_hands, random_hands, straight_hands
from helpers import assert_error_rule, compiled
from pointnet_cases import make
from test_hand_frames import results

from amt.kernels import _triton
from amt.kernels.hand_frames import reference

if _triton.INSTALLED:
    import aot

    from amt.kernels.frame_pointnet import triton as pointnet_triton
    from amt.kernels.frame_pointnet import triton_kernels as pointnet_kernels
    from amt.kernels.hand_frames import triton as frames_triton
    from amt.kernels.hand_frames import triton_kernels as frames_kernels

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


def assert_no_spills(code) -> None:
    assert code.stack == 0
    assert not code.instructions & {"LDL", "STL"}


@compiled
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_frames_on_sm90(backward):
    joints, origins, r = (torch.empty(64, *s, device="meta") for s in ((21, 3), (22, 3), (22, 3, 3)))
    if backward:
        kernel, arguments = frames_kernels.backward_kernel, (origins, r, joints, torch.empty_like(joints), 64)
    else:
        kernel, arguments = frames_kernels.forward_kernel, (joints, origins, r, 64)
    code = aot.compile_for_hopper(kernel, arguments, {"BLOCK": frames_triton.BLOCK}, frames_triton.WARPS, stages=1)
    assert_no_spills(code)


@compiled
@pytest.mark.parametrize("winners", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("dtype", "hidden"),
    [(torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 256), (torch.float16, 64)],
    ids=str,
)
def test_pointnet_forward_on_sm90(dtype, winners, hidden):
    batch, points, frames, features = 16, 778, 22, 128
    a = make((batch, 1, frames, hidden, features)).to(dtype).to("meta")
    out = torch.empty(batch, frames, features, device="meta")
    blocks, warps = pointnet_triton.blocks(hidden, features, dtype, winners)
    rows = -(-points // blocks["BLOCK_POINTS"]) * blocks["BLOCK_POINTS"]
    prepared = torch.empty(batch, rows, blocks["COLUMNS"], dtype=torch.bfloat16, device="meta")
    per_image = torch.empty(batch, device="meta")
    arguments = (prepared, per_image.int(), per_image, prepared, *a.tensors()[1:], out, out.int(), points, frames)
    constants = {
        "D1": hidden,
        "D2": features,
        "ROWS": rows,
        **blocks,
        "HAS_MASK": False,
        "WINNERS": winners,
        "UPCAST": False,
    }
    kernel = pointnet_kernels.forward_kernel
    code = aot.compile_for_hopper(kernel, arguments, constants, warps, stages=3)
    assert_no_spills(code)
    assert "HGMMA" in code.instructions  # both layers; float32 in bfloat16 parts


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pointnet_backward_on_sm90(dtype):
    batch, points, frames, hidden, features = 16, 778, 22, 64, 128
    a = make((batch, 1, frames, hidden, features)).to(dtype).to("meta")
    out = torch.empty(batch, frames, features, device="meta")
    cloud = torch.empty(batch, points, 3, device="meta")
    winning = torch.empty(batch, frames * features, 16, dtype=torch.bfloat16, device="meta")
    sums = [winning, *(torch.empty(1024, device="meta") for _ in range(6))]
    arguments = (out, out.int(), cloud, *cloud.stride(), *a.tensors()[1:6], *sums, batch, frames)
    blocks, warps = pointnet_triton.backward_blocks(hidden, features, dtype)
    constants = {"D1": hidden, "D2": features, **blocks}
    kernel = pointnet_kernels.backward_kernel
    assert_no_spills(aot.compile_for_hopper(kernel, arguments, constants, warps, stages=1))
    arguments = (out.int(), winning, cloud, frames * features, points)
    constants = {"BLOCK_POINTS": pointnet_triton.POINTS, "BLOCK_ENTRIES": pointnet_triton.ENTRIES, "UPCAST": False}
    kernel = pointnet_kernels.point_gradient_kernel
    assert_no_spills(aot.compile_for_hopper(kernel, arguments, constants, pointnet_triton.POINT_WARPS, stages=3))


@compiled
@pytest.mark.parametrize("has_mask", [False, True], ids=["all", "masked"])
def test_pointnet_preparation_on_sm90(has_mask):
    batch, points = 16, 778
    cloud, per_image = torch.empty(batch, points, 3, device="meta"), torch.empty(batch, device="meta")
    prepared = torch.empty(batch, 832, 32, dtype=torch.bfloat16, device="meta")
    mask = torch.empty(batch, points, dtype=torch.bool, device="meta")
    arguments = (cloud, *cloud.stride(), mask, cloud, prepared, per_image.int(), per_image, points, 22)
    constants = {"ROWS": 832, "COLUMNS": 32, "PARTS": 3, "BLOCK": pointnet_triton.PREPARED_POINTS, "HAS_MASK": has_mask}
    kernel, warps = pointnet_kernels.prepare_kernel, pointnet_triton.PREPARE_WARPS
    assert_no_spills(aot.compile_for_hopper(kernel, arguments, constants, warps, stages=1))
