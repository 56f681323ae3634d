"""Numbers that stand in C++, in Python and in Triton's kernels are the same."""

import importlib

import pytest
import torch

from amt.kernels import _native
from amt.kernels.frame_pointnet import reference as pointnet
from amt.kernels.hand_frames import reference as frames
from amt.kernels.pose_scores import reference as poses
from amt.kernels.refine import reference as refine

missing = _native.missing("refine", "cpu")
needs_native = pytest.mark.skipif(missing is not None, reason=str(missing))


@needs_native
def test_refine_in_cpp_and_python():
    from amt.kernels.refine import autograd, native

    package = importlib.import_module("amt.kernels.refine")  # the attribute of that name is the function

    most_maps, coordinates, maps, weights, rows, packed, depth, unit = torch.ops.amt.refine_constants()
    assert most_maps == package.MAX_MAPS
    needs = autograd.NEEDS_COORDINATES, autograd.NEEDS_MAPS, autograd.NEEDS_WEIGHTS
    assert (coordinates, maps, weights) == needs
    assert (rows, packed) == (native.PACKED_ROWS, native.MOST_PACKED)
    assert (depth, unit) == (refine.NEAREST_DEPTH, refine.RELATIVE_UNIT)


@needs_native
def test_shared_memory_of_refine_on_cuda():
    if not torch.ops.amt.built_with_cuda():
        pytest.skip("the native library was built without nvcc")
    from amt.kernels.refine import choice

    for item_bytes in (4, 8):
        forward, backward, per_unit = torch.ops.amt.refine_shared_bytes(item_bytes)
        assert forward == choice.CUDA_FORWARD_BYTES[item_bytes]
        assert (backward, per_unit) == choice.CUDA_BACKWARD_BYTES[item_bytes]
    assert torch.ops.amt.refine_cuda_max_joints() == choice.CUDA_MAX_JOINTS


@needs_native
def test_hand_frames_in_cpp_and_python():
    found = torch.ops.amt.hand_frames_constants()
    assert found[:4] == (frames.NUM_JOINTS, frames.NUM_FRAMES, frames.INDEX_BASE, frames.LITTLE_BASE)
    assert found[4:6] == (frames.FLAT, frames.REVERSED)


@needs_native
def test_frame_pointnet_in_cpp_and_python():
    assert torch.ops.amt.frame_pointnet_unit() == pointnet.UNIT


@needs_native
def test_pose_scores_in_cpp_and_python():
    depth, square, *facing, channels = torch.ops.amt.pose_scores_constants()
    assert (depth, square, channels) == (poses.NEAREST_DEPTH, poses.SMALLEST_SQUARE, poses.SURFACE_CHANNELS)
    assert facing == [poses.LEAST_FACING, poses.STEEPNESS, poses.RIM]


def test_triton_and_python():
    pytest.importorskip("triton")
    from amt.kernels.frame_pointnet import triton_kernels as pointnet_kernels
    from amt.kernels.hand_frames import triton_kernels as frames_kernels
    from amt.kernels.pose_scores import triton_kernels as poses_kernels
    from amt.kernels.refine.triton_kernels import sampling

    assert (sampling.NEAREST_DEPTH.value, sampling.RELATIVE_UNIT.value) == (refine.NEAREST_DEPTH, refine.RELATIVE_UNIT)
    assert (frames_kernels.FLAT.value, frames_kernels.REVERSED.value) == (frames.FLAT, frames.REVERSED)
    if missing is None:
        assert frames_kernels.SMALLEST_SIZE.value == torch.ops.amt.hand_frames_constants()[6]
    assert pointnet_kernels.PER_UNIT.value * pointnet.UNIT == 1.0
    found = (
        poses_kernels.NEAREST_DEPTH,
        poses_kernels.SMALLEST_SQUARE,
        poses_kernels.LEAST_FACING,
        poses_kernels.STEEPNESS,
    )
    assert [x.value for x in found] == [poses.NEAREST_DEPTH, poses.SMALLEST_SQUARE, poses.LEAST_FACING, poses.STEEPNESS]
    assert poses_kernels.PER_RIM_SQUARE.value * poses.RIM**2 == pytest.approx(1, rel=1e-15)


def test_the_model_takes_as_many_steps_as_refine():
    from amt.model.config import MAX_REFINE_STEPS

    assert importlib.import_module("amt.kernels.refine").MAX_STEPS == MAX_REFINE_STEPS
