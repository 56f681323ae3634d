"""``refine``'s CUDA kernels: on the host (barriers and indices, no GPU), through nvcc, and on a GPU."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refine_cases import CASES, EMPTY, IMAGE_SIZE, check, composed, make, run

from amt.kernels import RefineWeights, refine, use
from amt.kernels.refine import native, reference

CSRC = Path(__file__).parents[2] / "csrc"
HERE = Path(__file__).parent


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")(test))


class OnHost(torch.autograd.Function):
    """The CUDA kernels, run by tests/kernels/cuda_on_host.h."""

    @staticmethod
    def forward(ctx, library, team, num_maps, detach, *inputs):
        inputs = [x.detach().contiguous() for x in inputs]
        ctx.call = (library, team, num_maps, detach, inputs)
        return _on_host(*ctx.call, None)[0]

    @staticmethod
    def backward(ctx, gradient):
        return (None, None, None, None, *_on_host(*ctx.call, gradient.contiguous())[1:])


def _on_host(library, team, num_maps, detach, inputs, gradient):
    joints, maps, w1 = inputs[0], inputs[2 : 2 + num_maps], inputs[2 + num_maps]
    batch, num_joints = joints.shape[:2]
    steps, hidden = w1.shape[:2]
    out = [joints.new_full((batch, steps, num_joints, 3), float("nan"))]
    # every gradient but the maps' is written as a whole
    out += [torch.full_like(x, 0.0 if 2 <= i < 2 + num_maps else float("nan")) for i, x in enumerate(inputs)]
    sizes = (ctypes.c_int64 * 7)(batch, num_joints, steps, hidden, num_maps, *IMAGE_SIZE)
    map_sizes = (ctypes.c_int64 * (3 * num_maps))(*(n for m in maps for n in m.shape[1:]))

    def pointers(tensors):
        return (ctypes.c_void_p * num_maps)(*(t.data_ptr() for t in tensors))

    def pointer(tensor):
        return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())

    call = library.refine_double if joints.dtype == torch.float64 else library.refine_float
    call(
        team, sizes, pointer(joints), pointer(inputs[1]), pointers(maps), map_sizes,
        *map(pointer, inputs[2 + num_maps :]), ctypes.c_double(1.0), int(detach), pointer(gradient), pointer(out[0]),
        pointer(out[1]), pointer(out[2]), pointers(out[3 : 3 + num_maps]), *map(pointer, out[3 + num_maps :]),
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def host_library(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    path = tmp_path_factory.mktemp("refine") / "refine_on_host.so"
    flags = [
        "-std=c++20",
        "-O1",
        "-fPIC",
        "-shared",
        "-DAMT_CUDA_ON_HOST",
        "-Wno-unknown-pragmas",
        f"-I{CSRC}",
        f"-I{HERE}",
    ]
    subprocess.run(["g++", *flags, HERE / "refine_cuda_on_host.cpp", "-o", path], check=True)
    return ctypes.CDLL(str(path))


def on_host(library, team):
    def function(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach):
        return OnHost.apply(library, team, len(maps), detach, joints, intrinsics, *maps, w1, b1, w2, b2)

    return function


HOST_CASES = (
    "detached",
    "through-the-steps",
    "one-step-three-hands",
    "C71-257",
    "1x1",
    "behind-the-camera",
    "on-cell-borders",
    "coincident",
)


@pytest.mark.parametrize("team", [1, 2])
@pytest.mark.parametrize("name", HOST_CASES)
def test_kernels_on_the_host_float32(name, team, host_library):
    check(on_host(host_library, team), CASES[name]())


@pytest.mark.parametrize(
    "shape", [{"joints": 27, "steps": 1}, {"hidden": 300, "joints": 3, "batch": 1}], ids=["J27", "D300"]
)
def test_kernels_on_the_host_float64(shape, host_library):
    case = make(**shape, detach=False).to("cpu", torch.float64)
    for x, y in zip(run(on_host(host_library, 2), case), run(reference.refine, case)):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_nvcc_compiles_without_warnings_or_spills(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    include = Path(torch.__file__).parent / "include"
    command = [
        nvcc, "-std=c++20", "-O3", "-isystem", include, f"-I{CSRC}", "-DTORCH_TARGET_VERSION=0x020b000000000000",
        "-gencode=arch=compute_90a,code=sm_90a", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-Wall", "-Werror=all-warnings",
        "-Xptxas=-v", "-c", CSRC / "refine" / "cuda_refine.cu", "-o", tmp_path / "refine.o",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    # five kernels, each for float64 and for float32, float16 and bfloat16 maps
    assert len(spills) == 20
    assert set(spills) == {("0", "0")}


# On a GPU: the public function with the CUDA implementation.


def on_cuda(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach):
    with use("cuda"):
        return refine(
            joints,
            intrinsics,
            maps,
            RefineWeights(w1, b1, w2, b2),
            image_size=image_size,
            step_size=step_size,
            detach=detach,
        )


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_error_rule(name, dtype):
    check(on_cuda, CASES[name]().to("cuda", dtype))


@on_gpu
@pytest.mark.parametrize("name", CASES)
def test_float64(name):
    case = CASES[name]().to("cuda", torch.float64)
    for x, y in zip(run(on_cuda, case), run(reference.refine, case)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11, equal_nan=True)


@on_gpu
@pytest.mark.parametrize("name", EMPTY)
def test_empty(name):
    case = EMPTY[name]().to("cuda")
    for x, like in zip(run(on_cuda, case)[1:], case.inputs()):
        assert torch.equal(x, torch.zeros_like(like))


@on_gpu
def test_gradcheck():
    case = make(batch=2, joints=3, hidden=5, sizes=((4, 4, 3),), detach=False).to("cuda", torch.float64)
    inputs = [x.detach().requires_grad_() for x in case.inputs()]
    assert torch.autograd.gradcheck(lambda j, k, m, *w: on_cuda(j, k, (m,), *w, IMAGE_SIZE, 1.0, False), inputs)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_and_any_order_of_images_give_the_same_bits(dtype):
    case = make(batch=32, joints=21, hidden=256, sizes=((16, 16, 64), (8, 8, 64)), detach=False).to("cuda", dtype)
    once, twice = run(on_cuda, case), run(on_cuda, case)
    assert all(torch.equal(x, y) for x, y in zip(once, twice))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).cuda()
    permuted = replace(
        case, joints=case.joints[order], intrinsics=case.intrinsics[order], maps=tuple(m[order] for m in case.maps)
    )
    assert torch.equal(run(on_cuda, permuted)[0], once[0][order])


@on_gpu
def test_takes_part_in_a_cuda_graph():
    case = make(joints=21, hidden=64).to("cuda")
    arguments = (case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    expected = on_cuda(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = on_cuda(*arguments)
    captured.fill_(float("nan"))
    graph.replay()
    assert torch.equal(captured, expected)


@on_gpu
def test_more_joints_than_it_takes_are_refused():
    case = make(joints=native.CUDA_MOST_JOINTS + 1).to("cuda")
    with pytest.raises(RuntimeError, match="at most 128 joints"):
        run(on_cuda, case)


@on_gpu
def test_auto_agrees_on_both_sides_of_the_small_batch():
    for batch in (8, 9):
        case = make(batch=batch).to("cuda")
        steps = refine(case.joints, case.intrinsics, case.maps, RefineWeights(*case.weights), image_size=IMAGE_SIZE)
        peer = composed(case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
        torch.testing.assert_close(steps, peer, rtol=1e-4, atol=1e-5)
