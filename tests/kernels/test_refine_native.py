"""``refine`` in the native library on the CPU: accuracy, derivatives, the same bits always, PyTorch's own checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import assert_error_rule
from hypothesis import given, settings
from hypothesis import strategies as st
from refine_cases import CASES, EMPTY, IMAGE_SIZE, check, check_forward, forward, make, run, views

from amt.kernels import RefineWeights, _native, refine, use
from amt.kernels.refine import native, reference

pytestmark = pytest.mark.skipif(
    _native.missing("refine", "cpu") is not None, reason="the native library is not built here"
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
# 30 images are more than the threads share: each takes chunks of its own
many = {"few": 2, "many": 30}
batches = pytest.mark.parametrize("batch", many.values(), ids=many)
LARGE = {"J21-B30": lambda: make(batch=30, joints=21), "J150": lambda: make(batch=2, joints=150, hidden=16)}


OVERFLOW = ("behind-the-camera", "huge")  # where composed PyTorch has NaN in float16


@dtypes
@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_error_rule(name, dtype):
    if dtype == torch.float16 and name in OVERFLOW:
        pytest.skip("nothing of PyTorch's to compare with: see test_float16_where_pytorch_overflows")
    check(native.refine, (CASES | LARGE)[name]().to("cpu", dtype))


@dtypes
@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_error_rule_of_the_forward_alone(name, dtype):
    """bfloat16 is multiplied in fixed point or by tiles where no backward follows: other numbers than above, the same rule."""
    if dtype == torch.float16 and name in OVERFLOW:
        pytest.skip("nothing of PyTorch's to compare with: see test_float16_where_pytorch_overflows")
    check_forward(native.refine, (CASES | LARGE)[name]().to("cpu", dtype))


@pytest.mark.parametrize("weight", ["small", "zero"])
@pytest.mark.parametrize("of", ["channels", "a map"])
@pytest.mark.parametrize("large", [1e3, 1e6, 1e30])
def test_large_samples_under_small_weights_cost_the_others_nothing(large, of, weight):
    """As trained features have them; integers that share a power of two would lose the small samples beside them."""
    case = make(batch=4, joints=21, sizes=((6, 7, 130), (9, 8, 64)), hidden=64)
    channels = slice(3, 130, 40) if of == "channels" else slice(0, 130)
    case.maps[0][..., channels] *= large
    case.weights[0][..., channels] *= 1 / large if weight == "small" else 0
    check_forward(native.refine, case.to("cpu", torch.bfloat16))


@pytest.mark.parametrize("joints", [16, 17, 33])
@pytest.mark.parametrize("hidden", [16, 17, 32, 33])
@pytest.mark.parametrize("channels", [31, 32, 33, 150])
@pytest.mark.parametrize("batch", [1, 40])  # many images: weights are copied into tiles first
def test_error_rule_where_tiles_end(batch, channels, hidden, joints):
    case = make(batch=batch, joints=joints, hidden=hidden, sizes=((5, 4, channels), (3, 6, channels)))
    check_forward(native.refine, case.to("cpu", torch.bfloat16))


def test_each_channel_meets_its_own_weight():
    """A unit for each channel; gelu is the identity on values as large as these. bfloat16's last bit is 2^-8 of them."""
    sizes = (45, 22)  # channels: odd, and across the end of a block
    count = sum(sizes)
    values = 100 + torch.randperm(count, generator=torch.Generator().manual_seed(0)).float()
    maps = tuple(part.expand(1, 2, 2, -1).bfloat16() for part in values.split(sizes))
    w1 = torch.eye(count, count + 3)[None].bfloat16()
    zeros = torch.zeros(1, 1, count).bfloat16(), torch.zeros(1, 3).bfloat16()
    joint, camera = torch.tensor([[[0.0, 0.0, 1.0]]]), torch.tensor([[[100.0, 0, 112], [0, 100, 112], [0, 0, 1]]])
    for channel in range(count):
        w2 = torch.zeros(1, 3, count).bfloat16()
        w2[:, 0, channel] = 1
        steps = native.refine(joint, camera, maps, w1, zeros[0], w2, zeros[1], (224, 224), 1.0, True)
        assert abs(steps[0, 0, 0, 0] - values[channel]) <= 2**-10 * values[channel]


@pytest.mark.parametrize("name", OVERFLOW)
def test_float16_where_pytorch_overflows(name):
    """The definition at the same dtype, which computes in float32, takes the place of composed PyTorch."""
    case = CASES[name]().to("cpu", torch.float16)
    results = [
        run(native.refine, case),
        run(reference.refine, case.to("cpu", torch.float64)),
        run(reference.refine, case),
    ]
    finite = [torch.isfinite(t.to(x.dtype)) for x, t in zip(*results[:2])]
    assert all(torch.equal(torch.isnan(x), torch.isnan(t)) for x, t in zip(*results[:2]))
    assert_error_rule(*([torch.where(f, x, 0.0) for f, x in zip(finite, result)] for result in results))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_maps_with_wide_weights(dtype):
    """Narrow maps are widened as they are read: the same bits as maps widened before, only the maps' gradient is rounded."""
    case = make(batch=3, joints=21, detach=False)
    narrow = replace(case, maps=tuple(m.to(dtype) for m in case.maps))
    wide = replace(case, maps=tuple(m.float() for m in narrow.maps))
    ours, expected = run(native.refine, narrow), run(native.refine, wide)
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(ours, expected))
    assert ours[3].dtype == dtype


def test_error_rule_where_the_gradient_of_a_map_is_large():
    """From 32 MB on, the map's gradient is memory that only the touched pixels fill."""
    check(native.refine, make(batch=2, sizes=((64, 64, 1040), (3, 3, 2)), hidden=8))


def test_activation_far_out():
    """gelu and its slope are exact where nothing of them is left: no remainder for a large input to multiply."""
    x = torch.tensor([-1e30, -200.0, -20.0, -6.0, 6.0, 20.0, 200.0, 1e30])
    case = make(batch=1, joints=1, steps=1, hidden=8, sizes=((1, 1, 1),))
    zeros = [torch.zeros_like(w) for w in case.weights]
    b1 = x[None, None].clone().requires_grad_()
    w2 = torch.zeros(1, 3, 8)
    for unit in range(8):
        w2.zero_()[0, 0, unit] = 1
        steps = native.refine(
            torch.zeros(1, 1, 3), case.intrinsics, case.maps, zeros[0], b1, w2, zeros[3], IMAGE_SIZE, 1.0, True
        )
        (slope,) = torch.autograd.grad(steps[..., 0].sum(), b1)
        expected = max(x[unit].item(), 0.0)
        assert abs(steps[0, 0, 0, 0].item() - expected) <= 1e-7 * expected + 1e-8
        assert abs(slope[0, 0, unit].item() - float(x[unit] > 0)) <= 1e-7
        assert not slope[0, 0, torch.arange(8) != unit].any()


# The same examples every time: where a result hangs on a single element, luck alone breaks the rule (NOTES.md).
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 9),
    joints=st.integers(1, 40),
    steps=st.integers(1, 3),
    hidden=st.integers(1, 50),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70)), min_size=1, max_size=4),
    detach=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_error_rule_on_any_shape(batch, joints, steps, hidden, sizes, detach, dtype, seed):
    case = make(batch, joints, steps, hidden, tuple(sizes), detach, seed).to("cpu", dtype)
    check(native.refine, case)
    check_forward(native.refine, case)


@pytest.mark.parametrize("isa", [0, 1, 2], ids=["baseline", "avx2", "avx512"])
def test_error_rule_on_other_machines(isa):
    """The code for the instruction sets below this machine's."""
    if isa >= torch.ops.amt.cpu_isa():
        pytest.skip("this machine runs that set, or an older one, in the other tests")
    chosen = "(test_error_rule and (detached or C71 or 1x1 or J21 or behind) and (float32 or bfloat16 or float16))"
    chosen += " or large_samples or own_weight"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, __file__]
    done = subprocess.run(command, env={**os.environ, "AMT_CPU_ISA": str(isa)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@dtypes
@pytest.mark.parametrize("shared", ["steps", "units", None])
def test_views_of_w1_give_the_same_bits(shared, dtype):
    case = make(batch=3, joints=21, sizes=((4, 5, 30), (7, 6, 18))).to("cpu", dtype)
    w1 = case.weights[0]
    wide = torch.full((3, 2 * w1.shape[1], w1.shape[2] + 5), float("nan"), dtype=w1.dtype)
    wide[:2, ::2, 2:-3] = w1
    view = wide[:2, ::2, 2:-3]
    if shared == "steps":
        view = view[:1].expand_as(w1)
    if shared == "units":
        view = view[:, :1].expand_as(w1)
    ours, expected = (
        forward(native.refine, replace(case, weights=(w, *case.weights[1:]))) for w in (view, view.contiguous())
    )
    assert torch.equal(ours, expected)


@dtypes
@pytest.mark.parametrize("where", ["joint", "wrist", "map", "feature weight", "relative weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_nan_where_the_definition_has_it(value, where, dtype):
    case = make(batch=8, joints=21, steps=1).to("cpu", dtype)
    tensor, at = {
        "joint": (case.joints, (1, 2, 0)),
        "wrist": (case.joints, (1, 0, 1)),
        "map": (case.maps[0], (2, 1, 2, 3)),
        "feature weight": (case.weights[0], (0, 5, 4)),
        "relative weight": (case.weights[0], (0, 5, -2)),
        "bias": (case.weights[1], (0, 3, 7)),
    }[where]
    clean = forward(native.refine, case)
    tensor[at] = value
    ours, truth = forward(native.refine, case), forward(reference.refine, case.to("cpu", torch.float64))
    assert torch.equal(torch.isnan(ours), torch.isnan(truth))
    if where in ("joint", "wrist", "map"):
        assert torch.equal(ours[[0, 3, 4, 5, 6, 7]], clean[[0, 3, 4, 5, 6, 7]])


@pytest.mark.parametrize(("steps", "detach"), [(1, True), (2, False)])
def test_gradcheck(steps, detach):
    case = make(batch=2, joints=3, steps=steps, hidden=4, sizes=((3, 4, 2), (2, 2, 3))).to("cpu", torch.float64)
    inputs = [x.requires_grad_() for x in case.inputs()]
    assert torch.autograd.gradcheck(
        lambda j, k, *rest: native.refine(j, k, rest[:2], *rest[2:], IMAGE_SIZE, 1.0, detach), inputs
    )


@pytest.mark.parametrize("name", EMPTY)
def test_empty(name):
    case = EMPTY[name]()
    ours, expected = run(native.refine, case), run(reference.refine, case)
    for x, y in zip(ours, expected, strict=True):
        assert x.shape == y.shape
        assert not x.any()


@batches
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_number_of_threads(batch, dtype):
    """Enough units that a single image is worth several threads, and maps that begin and end within what one of them reads."""
    case = make(batch=batch, joints=21, hidden=700, sizes=((9, 8, 40), (5, 5, 150)), detach=False).to("cpu", dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3, threads):
            torch.set_num_threads(n)
            results.append([forward(native.refine, case), *run(native.refine, case)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("batch", [*many.values(), 4], ids=[*many, "three and one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_permuted_images_give_permuted_bits(batch, dtype):
    """Four images of 21 joints: one of them stands alone, and its rows fill less than a panel."""
    case = make(batch=batch, joints=21).to("cpu", dtype)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(3))
    gradient = torch.randn(batch, 2, 21, 3)

    def results(case, gradient):
        own = [x.detach().requires_grad_() for x in (case.joints, case.intrinsics, *case.maps)]
        steps = native.refine(own[0], own[1], own[2:], *case.weights, IMAGE_SIZE, 1.0, case.detach)
        return [forward(native.refine, case), steps.detach(), *torch.autograd.grad(steps, own, gradient)]

    permuted = replace(
        case, joints=case.joints[order], intrinsics=case.intrinsics[order], maps=tuple(m[order] for m in case.maps)
    )
    for x, y in zip(results(case, gradient), results(permuted, gradient[order])):
        assert torch.equal(x[order], y)


def test_every_output_is_written():
    """Deterministic mode fills fresh memory with NaN."""
    case = make(batch=3, joints=21, detach=False)
    expected = run(native.refine, case)
    torch.use_deterministic_algorithms(True)
    try:
        poisoned = run(native.refine, case)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, poisoned))


@pytest.mark.parametrize("wanted", range(8))
def test_a_part_of_the_gradients_is_the_same(wanted):
    case = make(detach=False)
    everything = run(native.refine, case)[1:]
    inputs = case.inputs()
    inputs[wanted] = inputs[wanted].requires_grad_()
    steps = native.refine(*inputs[:2], inputs[2:4], *inputs[4:], IMAGE_SIZE, 1.0, case.detach)
    gradient = torch.randn(steps.shape, generator=torch.Generator().manual_seed(1))
    (alone,) = torch.autograd.grad(steps, inputs[wanted], gradient)
    assert torch.equal(alone, everything[wanted])


def op_arguments(case, keep):
    case = replace(case, weights=tuple(w.contiguous() for w in case.weights))
    return (case.joints, case.intrinsics, list(case.maps), *case.weights, *IMAGE_SIZE, 1.0, case.detach, keep)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("make_case", [make, views, lambda: make(batch=0)], ids=["plain", "views", "B0"])
def test_opcheck(make_case, keep):
    arguments = op_arguments(make_case(), keep)
    if keep:  # a call that keeps nothing has no backward: autograd is checked on the one that does
        for x in (*arguments[:2], *arguments[2], *arguments[3:7]):
            x.requires_grad_()
    torch.library.opcheck(torch.ops.amt.refine.default, arguments)


@pytest.mark.parametrize("needs", range(8))
def test_opcheck_of_backward(needs):
    arguments = op_arguments(make(), keep=True)
    steps, kept = torch.ops.amt.refine.default(*arguments)
    torch.library.opcheck(
        torch.ops.amt.refine_backward.default, (torch.ones_like(steps), steps, kept, *arguments[:-1], needs)
    )


class Refiner(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.weights = torch.nn.ParameterList(case.weights)

    def forward(self, joints, intrinsics, maps):
        return refine(joints, intrinsics, maps, RefineWeights(*self.weights), image_size=IMAGE_SIZE)


@pytest.mark.parametrize("train", [True, False])
def test_compiles_in_one_graph(train):
    case = make(joints=21)
    module = Refiner(case)
    arguments = (case.joints, case.intrinsics, case.maps)
    with use("native"), torch.set_grad_enabled(train):
        expected = module(*arguments)
        compiled = torch.compile(module, fullgraph=True)(*arguments)
    assert torch.equal(expected, compiled)
    if train:
        gradients = [torch.autograd.grad(out.square().sum(), list(module.parameters())) for out in (expected, compiled)]
        assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_exports():
    case = make(joints=21)
    module = Refiner(case)
    arguments = (case.joints, case.intrinsics, case.maps)
    with use("native"):
        program = torch.export.export(module, arguments)
    assert "amt.refine.default" in str(program.graph)
    assert torch.equal(program.module()(*arguments), module(*arguments))


def test_vmap_is_refused():
    case = make()
    for wanted in (False, True):
        with pytest.raises(RuntimeError, match=r"does not run under torch\.vmap"), use("native"):
            torch.vmap(
                lambda joints: refine(
                    joints, case.intrinsics, case.maps, RefineWeights(*case.weights), image_size=IMAGE_SIZE
                )
            )(case.joints[None].requires_grad_(wanted))


@pytest.mark.parametrize("through_the_op", [False, True], ids=["function", "op"])
def test_double_backward_is_refused(through_the_op):
    case = make()
    joints = case.joints.requires_grad_()
    if through_the_op:
        steps, _ = torch.ops.amt.refine.default(*op_arguments(case, keep=True))
    else:
        steps = native.refine(joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, case.detach)
    (gradient,) = torch.autograd.grad(steps.square().sum(), joints, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        gradient.sum().backward()


def test_backward_of_a_call_that_kept_nothing_is_refused():
    case = make()
    case.joints.requires_grad_()
    steps, _ = torch.ops.amt.refine.default(*op_arguments(case, keep=False))
    with pytest.raises(RuntimeError, match="keep=False"):
        steps.sum().backward()


def test_the_op_checks_what_it_is_given():
    case = make()
    arguments = list(op_arguments(case, keep=False))
    for at, bad, match in [
        (0, case.joints[..., :2], "joints must be contiguous"),
        (2, [m.permute(0, 3, 1, 2) for m in case.maps], "channels last"),
        (3, case.weights[0][..., 1:], r"w1 must be \[S, D, C \+ 3\]"),
        (4, case.weights[1].double(), "dtype or the joints'"),
    ]:
        with pytest.raises(RuntimeError, match=match):
            torch.ops.amt.refine.default(*arguments[:at], bad, *arguments[at + 1 :])


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_phase_of_a_team_begins_when_the_one_before_is_done(tmp_path):
    here = Path(__file__).parent
    command = ["g++", "-std=c++20", "-O2", "-pthread", f"-I{here.parents[1] / 'csrc'}", here / "team_of_threads.cpp"]
    subprocess.run([*command, "-o", tmp_path / "team"], check=True)
    done = subprocess.run([tmp_path / "team"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0 wrong\n")
