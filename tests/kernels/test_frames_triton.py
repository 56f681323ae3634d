"""hand_frames and frame_pointnet in Triton: agreement with the definitions (in the interpreter without a GPU; the GPU's own tests
stand beside the other implementations'), and what sm_90 code is made of them.

The interpreter must be chosen before Triton is imported, so those tests run in a process of their own, which
`test_agreement_in_the_interpreter` starts.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

import aot
from frames_cases import degenerate_hands, posed_hands, random_hands, straight_hands
from helpers import assert_error_rule
from pointnet_cases import composed, make
from pointnet_cases import results as pointnet_results
from test_hand_frames_op import results as frames_results

from amt.kernels import _triton, frame_pointnet, hand_frames, use
from amt.kernels.frame_pointnet import reference as pointnet_reference
from amt.kernels.frame_pointnet import triton as pointnet_triton
from amt.kernels.frame_pointnet import triton_kernels as pointnet_kernels
from amt.kernels.hand_frames import reference as frames_reference
from amt.kernels.hand_frames import triton as frames_triton
from amt.kernels.hand_frames import triton_kernels as frames_kernels

interpreted = pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter's process")
compiled = pytest.mark.skipif(_triton.INTERPRETED, reason="the interpreter compiles nothing")


@compiled
def test_agreement_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 16, 37])
def test_frames_error_rule(batch, dtype):
    joints = torch.cat([posed_hands(batch), straight_hands(batch), random_hands(batch)])[:batch].to(dtype)
    with use("triton"):
        ours = frames_results(hand_frames, joints)
    truth = frames_results(frames_reference.hand_frames, joints.double())
    assert_error_rule(ours, truth, frames_results(frames_reference.hand_frames, joints))


@interpreted
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_frames_of_degenerate_hands(scale):
    joints = (torch.cat(list(degenerate_hands().values())) * scale).float()
    with use("triton"):
        origins, r, gradient = frames_results(hand_frames, joints)
    assert gradient.isfinite().all()
    expected = frames_reference.hand_frames(joints.double())
    torch.testing.assert_close(origins.double() / scale, expected[0] / scale, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(r.double(), expected[1], rtol=0, atol=2e-5)


@interpreted
def test_frames_nan_stays_in_its_hand():
    joints = random_hands(20).float()
    with use("triton"):
        clean = frames_results(hand_frames, joints)
        joints[7, 6] = float("nan")
        dirty = frames_results(hand_frames, joints)
    others = torch.arange(20) != 7
    for a, b in zip(clean, dirty):
        assert torch.equal(a[others], b[others])
        assert not b[7].isfinite().all()


@interpreted
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 150, 2, 64, 128), torch.float32),
        ((2, 70, 2, 33, 200), torch.bfloat16),
        ((2, 9, 4, 5, 12), torch.float32),
        ((1, 1, 1, 1, 1), torch.float32),
    ],
    ids=str,
)
def test_pointnet_error_rule(shape, masked, dtype):
    arguments = make(shape, masked=masked).to(dtype)
    with use("triton"):
        ours = pointnet_results(frame_pointnet, arguments)
    truth = pointnet_results(pointnet_reference.frame_pointnet, arguments.to(torch.float64))
    peer = composed if dtype == torch.bfloat16 else pointnet_reference.frame_pointnet  # in the weights' dtype
    assert_error_rule(ours, truth, pointnet_results(peer, arguments))


@interpreted
def test_pointnet_error_rule_float16():
    """The second layer multiplies in float16 as PyTorch does; gradients follow another winner there, as PyTorch's do."""
    arguments = make((2, 50, 2, 64, 128)).to(torch.float16)
    with use("triton"):
        ours = frame_pointnet(*arguments.tensors())
    truth = pointnet_reference.frame_pointnet(*arguments.to(torch.float64).tensors())
    assert_error_rule(ours, truth, composed(*arguments.tensors()))


@interpreted
def test_pointnet_nan_stays_in_its_image_and_masked_points_are_not_read():
    arguments = make((3, 40, 2, 16, 24), masked=True).to(torch.float32)
    arguments.mask[0] = True
    with use("triton"), torch.no_grad():
        clean = frame_pointnet(*arguments.tensors(), arguments.mask)
        arguments.points[~arguments.mask] = float("nan")
        assert torch.equal(frame_pointnet(*arguments.tensors(), arguments.mask), clean)
        arguments.points[1, arguments.mask[1]] = float("nan")
        dirty = frame_pointnet(*arguments.tensors(), arguments.mask)
    assert dirty[1].isnan().all()
    assert torch.equal(dirty[[0, 2]], clean[[0, 2]])


@interpreted
def test_pointnet_strided_points_and_same_bits():
    arguments = make((2, 30, 3, 16, 24)).to(torch.float32)
    with use("triton"):
        expected = pointnet_results(frame_pointnet, arguments)
        arguments.points = arguments.points.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert all(map(torch.equal, pointnet_results(frame_pointnet, arguments), expected))


@interpreted
def test_ops_pass_pytorchs_checks():
    joints = posed_hands(2).float().requires_grad_()
    torch.library.opcheck(torch.ops.amt.hand_frames_triton.default, (joints,))
    arguments = make((1, 9, 2, 6, 7)).to(torch.float32)
    inputs = [t.requires_grad_() for t in arguments.tensors()]
    torch.library.opcheck(torch.ops.amt.frame_pointnet_triton.default, (*inputs, None, True))


@interpreted
def test_too_many_hidden_units_are_refused():
    arguments = make((1, 3, 1, 513, 4)).to(torch.float32)
    with use("triton"), pytest.raises(ValueError, match="at most 512 hidden units, w1 has 513"):
        frame_pointnet(*arguments.tensors())


def assert_no_spills(code: aot.Code) -> None:
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
    of_image = torch.empty(batch, device="meta")
    arguments = (prepared, of_image.int(), of_image, prepared, *a.tensors()[1:], out, out.int(), points, frames)
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
    sums = [winning, *(torch.empty(1024, device="meta") for _ in range(5))]
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
    cloud, of_image = torch.empty(batch, points, 3, device="meta"), torch.empty(batch, device="meta")
    prepared = torch.empty(batch, 832, 32, dtype=torch.bfloat16, device="meta")
    mask = torch.empty(batch, points, dtype=torch.bool, device="meta")
    arguments = (cloud, *cloud.stride(), mask, cloud, prepared, of_image.int(), of_image, points, 22)
    constants = {"ROWS": 832, "COLUMNS": 32, "PARTS": 3, "BLOCK": pointnet_triton.PREPARED_POINTS, "HAS_MASK": has_mask}
    kernel, warps = pointnet_kernels.prepare_kernel, pointnet_triton.PREPARE_WARPS
    assert_no_spills(aot.compile_for_hopper(kernel, arguments, constants, warps, stages=1))
