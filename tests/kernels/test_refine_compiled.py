"""``refine``'s GPU code without a GPU: Triton compiled for sm_90, CUDA through nvcc, and CUDA's kernels run on the host."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from refine_cases import BEYOND_PLAIN, BFLOAT16, CASES, FLOAT16, FLOAT32, FLOAT64, IMAGE_SIZE, check, make, plain, run

from amt.kernels import _triton
from amt.kernels._triton import INTERPRETED
from amt.kernels.refine import choice, reference

CSRC = Path(__file__).parents[2] / "csrc"
HERE = Path(__file__).parent
HOST_FLAGS = ["-std=c++20", "-DAMT_CUDA_ON_HOST", "-Wno-unknown-pragmas", f"-I{CSRC}", f"-I{HERE}"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


# The shape of the goals, a single map, and one whose sizes divide nothing.
SHAPES = {
    "pyramid": {"sizes": ((16, 16, 256), (32, 32, 256), (64, 64, 256)), "hidden": 256},
    "single-map": {"sizes": ((16, 16, 1024),), "hidden": 256},
}
ON_TENSOR_CORES = {
    "mlp_kernel": "HGMMA",
    "single_kernel": "HMMA",
    "mlp_backward_kernel": "HGMMA",
    "feature_gradient_kernel": "HGMMA",
    "weight_gradient_kernel": "HGMMA",
}


def launches(monkeypatch, map_dtype, weight_dtype, sizes, hidden):
    """Every kernel that forward and backward launch for this shape, with its arguments; nothing runs."""
    from amt.kernels.refine import triton, triton_backward

    recorded = {}

    def record(self, kernel, grid, *arguments, warps, stages=1, slot=(), **named):
        recorded.setdefault(kernel.fn.__name__, (kernel, arguments, named, warps, stages))

    monkeypatch.setattr(_triton.Launcher, "__call__", record)
    channels = sum(size[2] for size in sizes)

    def empty(*shape, dtype=weight_dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    problem = (
        empty(512, 21, 3, dtype=FLOAT32), empty(512, 3, 3, dtype=FLOAT32), [empty(512, *s, dtype=map_dtype) for s in sizes],
        empty(2, hidden, channels + 3), empty(2, 21, hidden), empty(2, 3, hidden), empty(2, 3), 224, 224, 1.0, True,
    )  # fmt: skip
    for form in triton.FORMS:
        steps = triton.forward(*problem, form)
    triton_backward.backward(steps, steps, *problem, 7)
    return recorded


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("maps", "weights", "shape"),
    [
        (BFLOAT16, BFLOAT16, "pyramid"),
        (FLOAT16, FLOAT16, "pyramid"),
        (FLOAT32, FLOAT32, "pyramid"),
        (BFLOAT16, FLOAT32, "pyramid"),  # as a model under autocast
        (FLOAT16, FLOAT32, "pyramid"),
        (BFLOAT16, BFLOAT16, "single-map"),
    ],
    ids=lambda x: str(x).removeprefix("torch."),
)
def test_sm_90_code(maps, weights, shape, monkeypatch):
    pytest.importorskip("triton")
    import aot

    for name, (kernel, _, named, warps, stages) in launches(monkeypatch, maps, weights, **SHAPES[shape]).items():
        # a kernel's constants are in capitals, and come last
        constants = {key: value for key, value in named.items() if key.isupper()}
        arguments = tuple(value for key, value in named.items() if not key.isupper())
        assert list(named) == kernel.arg_names
        code = aot.compile_for_hopper(kernel, arguments, constants, warps, stages)
        assert code.stack == 0, f"{name} keeps {code.stack} bytes a thread in local memory"
        assert not code.instructions & {"LDL", "STL"}, f"{name} spills registers"
        if weights != FLOAT32 and name in ON_TENSOR_CORES:
            assert ON_TENSOR_CORES[name] in code.instructions, f"{name} has no {ON_TENSOR_CORES[name]}"


class OnHost(torch.autograd.Function):
    """The CUDA kernels, run by tests/kernels/cuda_on_host.h."""

    @staticmethod
    def forward(ctx, library, cluster_size, num_maps, detach, *inputs):
        inputs = [x.detach().contiguous() for x in inputs]
        ctx.call = (library, cluster_size, num_maps, detach, inputs)
        return _on_host(*ctx.call, None)[0]

    @staticmethod
    def backward(ctx, grad_steps):
        return (None, None, None, None, *_on_host(*ctx.call, grad_steps.contiguous())[1:])


def _on_host(library, cluster_size, num_maps, detach, inputs, grad_steps):
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

    call = library.refine_double if joints.dtype == FLOAT64 else library.refine_float
    call(
        cluster_size, sizes, pointer(joints), pointer(inputs[1]), pointers(maps), map_sizes,
        *map(pointer, inputs[2 + num_maps :]), ctypes.c_double(1.0), int(detach), pointer(grad_steps), pointer(out[0]),
        pointer(out[1]), pointer(out[2]), pointers(out[3 : 3 + num_maps]), *map(pointer, out[3 + num_maps :]),
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def host_library(tmp_path_factory):
    path = tmp_path_factory.mktemp("refine") / "refine_on_host.so"
    flags = [*HOST_FLAGS, "-O1", "-fPIC", "-shared"]
    subprocess.run(["g++", *flags, HERE / "refine_cuda_on_host.cpp", "-o", path], check=True)
    return ctypes.CDLL(str(path))


def on_host(library, cluster_size):
    def function(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach):
        return OnHost.apply(library, cluster_size, len(maps), detach, joints, intrinsics, *maps, w1, b1, w2, b2)

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


@needs_compiler
@pytest.mark.parametrize("cluster_size", [1, 2])
@pytest.mark.parametrize("name", HOST_CASES)
def test_kernels_on_the_host_float32(name, cluster_size, host_library):
    peer = reference.refine if name in BEYOND_PLAIN else plain
    check(on_host(host_library, cluster_size), CASES[name](), peer)


@needs_compiler
@pytest.mark.parametrize(
    "shape", [{"joints": 27, "steps": 1}, {"hidden": 300, "joints": 3, "batch": 1}], ids=["J27", "D300"]
)
def test_kernels_on_the_host_float64(shape, host_library):
    case = make(**shape, detach=False).to("cpu", FLOAT64)
    for x, y in zip(run(on_host(host_library, 2), case), run(reference.refine, case)):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@needs_compiler
def test_choice_knows_what_cuda_needs(tmp_path):
    """The limits in choice.py are those of csrc."""
    source = tmp_path / "limits.cpp"
    source.write_text(
        """
        #include <cstdio>
        #include "refine/cuda_backward.cuh"
        #include "refine/cuda_forward.cuh"
        using namespace amt::refine::cuda;
        template <class T> void print() {
          const size_t unit = sizeof(T) * joint_tile;
          std::printf("%zu %zu %zu\\n", sizeof(ForwardMemory<T>), sizeof(BackwardMemory<T>) - unit, unit);
        }
        int main() { print<float>(), print<double>(), std::printf("%d\\n", max_joints); }
        """
    )
    program = tmp_path / "limits"
    subprocess.run(["g++", *HOST_FLAGS, source, "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    for size, (forward, fixed, per_unit) in zip((4, 8), (map(int, printed[:3]), map(int, printed[3:6]))):
        assert choice.CUDA_FORWARD_BYTES[size] == forward
        assert choice.CUDA_BACKWARD_BYTES[size] == (fixed, per_unit)
    assert int(printed[6]) == choice.CUDA_MAX_JOINTS


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
