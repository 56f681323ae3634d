"""``refine`` in Triton: agreement with the definition (in the interpreter without a GPU), and what sm_90 code is made of it.

The interpreter must be chosen before Triton is imported: without a GPU the agreement tests run in a process of their own, which
`test_agreement_in_the_interpreter` starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import aot
import refine_cases
from refine_cases import CASES, EMPTY, check, make, run

from amt.kernels import _triton
from amt.kernels._triton import INTERPRETED
from amt.kernels.refine import RefineWeights, triton_launch
from amt.kernels.refine import triton as triton_refine

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def on_device(test):
    """A test that runs the kernels: on a GPU, or in the interpreter's process."""
    if INTERPRETED:
        return test
    reason = "runs in the interpreter's process, or on a GPU"
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason=reason)(test))


def dtypes(*names):
    # the interpreter truncates where a GPU rounds to bfloat16
    return pytest.mark.parametrize(
        "dtype", [DTYPES[n] for n in names if not (INTERPRETED and n == "bfloat16")], ids=str
    )


forms = pytest.mark.parametrize("form", triton_launch.FORMS)


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="these tests run here themselves")
def test_agreement_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@on_device
@pytest.mark.parametrize("name", CASES)
def test_error_rule_float32(name):
    check(triton_refine.refine, CASES[name]().to(DEVICE), form="two_kernel")


@on_device
@pytest.mark.parametrize("name", ["detached", "C71-257", "behind-the-camera", "views"])
def test_error_rule_float32_single(name):
    check(triton_refine.refine, CASES[name]().to(DEVICE), form="single")


@on_device
@forms
@dtypes("float16", "bfloat16")
@pytest.mark.parametrize("name", ["detached", "through-the-steps", "C64-D256", "J26-S3", "on-cell-borders", "views"])
def test_error_rule_half(name, dtype, form):
    check(triton_refine.refine, CASES[name]().to(DEVICE, dtype), form=form)


@on_device
@forms
@pytest.mark.parametrize("name", EMPTY)
def test_empty(name, form):
    case = EMPTY[name]().to(DEVICE)
    for x, like in zip(run(triton_refine.refine, case, form=form)[1:], case.inputs()):
        assert torch.equal(x, torch.zeros_like(like))


@on_device
@dtypes("float32", "float16")
def test_weights_in_the_joints_dtype(dtype):
    case = make().to(DEVICE, dtype)
    mixed = replace(case, weights=tuple(w.float() for w in case.weights))
    ours, same = run(triton_refine.refine, mixed), run(triton_refine.refine, case)
    assert all(x.dtype == like.dtype for x, like in zip(ours[1:], mixed.inputs()))
    torch.testing.assert_close(ours[0], same[0])


@pytest.fixture
def rows_alike(monkeypatch):
    """In the interpreter a product is NumPy's, whose BLAS may round a row differently by where it stands in the tile."""
    if INTERPRETED:
        from triton.runtime import interpreter

        def matmul(a, b, dtype):
            return np.einsum("...ij,...jk->...ik", a, b, dtype=dtype)

        monkeypatch.setattr(interpreter.np, "matmul", matmul)


@on_device
@forms
def test_two_runs_and_any_order_of_images_give_the_same_bits(form, rows_alike):
    case = make(batch=4, joints=3, detach=False, sizes=((4, 5, 30), (7, 6, 4))).to(DEVICE)
    once, twice = (run(triton_refine.refine, case, form=form) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(once, twice))
    order = torch.tensor([3, 0, 1, 2], device=DEVICE)
    permuted = replace(
        case, joints=case.joints[order], intrinsics=case.intrinsics[order], maps=tuple(m[order] for m in case.maps)
    )
    arguments = (*case.weights, refine_cases.IMAGE_SIZE, 1.0, False, form)
    whole = triton_refine.refine(case.joints, case.intrinsics, case.maps, *arguments)
    assert torch.equal(
        triton_refine.refine(permuted.joints, permuted.intrinsics, permuted.maps, *arguments), whole[order]
    )


@on_device
def test_a_broken_gradient_stays_with_its_joint():
    case = make(batch=2).to(DEVICE)
    case.joints[0, 2] = torch.tensor([0.0, 0.0, 0.6])  # within the maps
    joints, maps = case.joints, [m.clone().requires_grad_() for m in case.maps]
    steps = triton_refine.refine(joints, case.intrinsics, maps, *case.weights, refine_cases.IMAGE_SIZE, 1.0, True)
    reference_maps = [m.detach().clone().requires_grad_() for m in maps]
    expected = refine_cases.reference.refine(
        joints, case.intrinsics, reference_maps, *case.weights, refine_cases.IMAGE_SIZE, 1.0, True
    )
    gradient = torch.ones_like(steps)
    gradient[0, 0, 2] = float("nan")
    ours, theirs = torch.autograd.grad(steps, maps, gradient), torch.autograd.grad(expected, reference_maps, gradient)
    for x, y in zip(ours, theirs):
        assert y.isnan().any()
        assert torch.equal(x.isnan(), y.isnan())


@on_device
def test_only_what_is_needed_is_computed():
    case = make(batch=1, joints=3, hidden=8, sizes=((4, 5, 6), (2, 2, 3))).to(DEVICE)
    everything = run(triton_refine.refine, case)[1:]
    inputs = [x.detach() for x in case.inputs()]
    for i, full in enumerate(everything):
        inputs[i].requires_grad_()
        last = 2 + len(case.maps)
        steps = triton_refine.refine(*inputs[:2], inputs[2:last], *inputs[last:], refine_cases.IMAGE_SIZE, 1.0, True)
        gradient = torch.randn(steps.shape, generator=torch.Generator().manual_seed(1)).to(steps)
        (x,) = torch.autograd.grad(steps, inputs[i], gradient)
        torch.testing.assert_close(x, full)
        inputs[i].requires_grad_(False)


@on_device
def test_opcheck():
    case = make(batch=1, joints=3, hidden=8, sizes=((3, 3, 4),)).to(DEVICE)
    inputs = [x.detach().requires_grad_() for x in case.inputs()]
    arguments = (inputs[0], inputs[1], inputs[2:3], *inputs[3:], *refine_cases.IMAGE_SIZE, 1.0, True, "two_kernel")
    torch.library.opcheck(torch.ops.amt.refine_triton.default, arguments)


@on_device
def test_compiles_into_one_graph():
    case = make(batch=1, joints=3, hidden=8, sizes=((3, 3, 4),)).to(DEVICE)

    def loss(joints, intrinsics, maps, *rest):
        return triton_refine.refine(joints, intrinsics, maps, *rest, refine_cases.IMAGE_SIZE, 1.0, True) * 2

    arguments = (case.joints, case.intrinsics, list(case.maps), *case.weights)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(*arguments), loss(*arguments))


@on_device
def test_refuses_what_it_cannot_do():
    case = make().to(DEVICE)
    arguments = (case.intrinsics, case.maps, *case.weights, refine_cases.IMAGE_SIZE, 1.0, True)
    with pytest.raises(ValueError, match="form must be"):
        triton_refine.refine(case.joints, *arguments, form="three_kernel")
    joints = case.joints.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(triton_refine.refine(joints, *arguments).sum(), joints, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match="does not run under"):
        torch.vmap(lambda j: triton_refine.refine(j, *arguments))(case.joints[None])


@on_device
def test_the_public_function_takes_it():
    from amt.kernels import refine, use

    case = make().to(DEVICE)
    with use("triton"):
        steps = refine(
            case.joints, case.intrinsics, case.maps, RefineWeights(*case.weights), image_size=refine_cases.IMAGE_SIZE
        )
    assert torch.equal(steps, run(triton_refine.refine, case)[0])


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


def launches(monkeypatch, dtype, sizes, hidden):
    """Every kernel that forward and backward launch for this shape, with its arguments; nothing runs."""
    recorded = {}

    def record(self, kernel, grid, *arguments, warps, stages=1, slot=(), **constants):
        recorded.setdefault(kernel.fn.__name__, (kernel, arguments, constants, warps, stages))

    monkeypatch.setattr(_triton.Launcher, "__call__", record)
    channels = sum(size[2] for size in sizes)

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    problem = (
        empty(512, 21, 3, dtype=torch.float32), empty(512, 3, 3, dtype=torch.float32), [empty(512, *s) for s in sizes],
        empty(2, hidden, channels + 3), empty(2, 21, hidden), empty(2, 3, hidden), empty(2, 3), 224, 224, 1.0,
    )  # fmt: skip
    for form in triton_launch.FORMS:
        steps = triton_launch.forward(*problem, form)
    triton_launch.backward(steps, steps, *problem, True, 7)
    return recorded


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.bfloat16, "pyramid"),
        (torch.float16, "pyramid"),
        (torch.float32, "pyramid"),
        (torch.bfloat16, "single-map"),
    ],
    ids=lambda x: str(x).removeprefix("torch."),
)
def test_sm_90_code(dtype, shape, monkeypatch):
    for name, (kernel, arguments, constants, warps, stages) in launches(monkeypatch, dtype, **SHAPES[shape]).items():
        code = aot.compile_for_hopper(kernel, arguments, constants, warps, stages)
        assert code.stack == 0, f"{name} keeps {code.stack} bytes a thread in local memory"
        assert not code.instructions & {"LDL", "STL"}, f"{name} spills registers"
        if dtype != torch.float32 and name in ON_TENSOR_CORES:
            assert ON_TENSOR_CORES[name] in code.instructions, f"{name} has no {ON_TENSOR_CORES[name]}"
