"""``refine``: bad arguments are named, every device has an implementation, and the choice on a GPU goes by the sizes."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from refine_cases import FLOAT16, FLOAT32, FLOAT64, IMAGE_SIZE, Case, make, over, public

from amt.kernels import BackendUnavailable, RefineWeights, _backend, refine, use
from amt.kernels._triton import INTERPRETED
from amt.kernels.refine import choice, reference

SM_75, SM_80, SM_86, SM_90 = 65_536, 166_912, 101_376, 232_448  # bytes of shared memory that a block may have


def call(case: Case, image_size=IMAGE_SIZE, **options) -> torch.Tensor:
    weights = RefineWeights(*case.weights) if len(case.weights) == 4 else case.weights
    return refine(case.joints, case.intrinsics, case.maps, weights, image_size=image_size, **options)


def wrong_cases() -> dict[str, tuple[str, type[Exception], Case]]:
    """What is wrong, the message, the error, the case."""
    case = make()
    w1, b1, w2, b2 = case.weights
    first, second = case.maps

    def maps(*changed):
        return replace(case, maps=changed)

    def weights(*changed):
        return replace(case, weights=changed)

    no_hidden = (w1[:, :0], b1[..., :0], w2[..., :0], b2)
    return {
        "sparse joints": ("joints must be a dense tensor", TypeError, replace(case, joints=case.joints.to_sparse())),
        "sparse intrinsics": (
            "intrinsics must be a dense tensor",
            TypeError,
            replace(case, intrinsics=case.intrinsics.to_sparse()),
        ),
        "sparse weights": ("w1 must be a dense tensor", TypeError, weights(w1.to_sparse(), b1, w2, b2)),
        "joints of 2": (
            r"joints must have the shape \[B, J, 3\], got \[2, 5, 2\]",
            ValueError,
            replace(case, joints=case.joints[..., :2]),
        ),
        "joints in float16": (
            "joints must be torch.float32 or torch.float64, got torch.float16",
            TypeError,
            replace(case, joints=case.joints.half()),
        ),
        "joints in NumPy": (
            "joints must be a tensor, got ndarray",
            TypeError,
            replace(case, joints=np.zeros((2, 5, 3))),
        ),
        "intrinsics of one image": (
            r"intrinsics must have the shape \[2, 3, 3\]",
            ValueError,
            replace(case, intrinsics=case.intrinsics[:1]),
        ),
        "intrinsics in float64": (
            "intrinsics must be torch.float32",
            TypeError,
            replace(case, intrinsics=case.intrinsics.double()),
        ),
        "no maps": ("1 to 4 maps, got 0", ValueError, maps()),
        "five maps": ("1 to 4 maps, got 5", ValueError, maps(*[first] * 5)),
        "one tensor as maps": (
            "maps must be a sequence of tensors, got one tensor",
            TypeError,
            replace(case, maps=first),
        ),
        "maps of two dtypes": (
            r"maps\[1\] must be torch.float32 as maps\[0\] is",
            TypeError,
            maps(first, second.bfloat16()),
        ),
        "maps in float64": (r"maps\[0\] must be torch.float32 or", TypeError, maps(first.double(), second.double())),
        "channels first": (
            r"maps\[0\] must be channels last in memory",
            ValueError,
            maps(first.mT.contiguous().mT, second),
        ),
        "whole maps channels first": (
            r"maps must be channels last.* look like \[B, C, H, W\]: pass m\.permute\(0, 2, 3, 1\)\.contiguous\(\)",
            ValueError,
            maps(*[m.permute(0, 3, 1, 2).contiguous() for m in (first, second)]),
        ),
        "channels first in channels_last memory": (
            r"maps\[0\] must be channels last in memory .* a map \[B, C, H, W\] first with \.permute\(0, 2, 3, 1\)",
            ValueError,
            maps(*[m.permute(0, 3, 1, 2) for m in (first, second)]),
        ),
        "a map of three dimensions": (
            r"maps\[1\] must have the shape \[2, H, W, C\]",
            ValueError,
            maps(first, second[0]),
        ),
        "no channels": (r"maps\[1\] must hold at least one cell and channel", ValueError, maps(first, second[..., :0])),
        "no rows": (r"maps\[0\] must hold at least one cell and channel", ValueError, maps(first[:, :0], second)),
        "no columns": (r"maps\[0\] must hold at least one cell and channel", ValueError, maps(first[:, :, :0], second)),
        "w1 too narrow": (r"weights.w1 must have the shape \[S, D, 50\]", ValueError, weights(w1[..., 1:], b1, w2, b2)),
        "w1 in bfloat16": ("weights.w1 must be torch.float32", TypeError, weights(w1.bfloat16(), b1, w2, b2)),
        "w1 elsewhere": ("weights.w1 must be on cpu", ValueError, weights(w1.to("meta"), b1, w2, b2)),
        "w1 missing": ("weights.w1 must be a tensor, got NoneType", TypeError, weights(None, b1, w2, b2)),
        "b1 of one joint": (r"weights.b1 must have the shape \[2, 5, 40\]", ValueError, weights(w1, b1[:, :1], w2, b2)),
        "w2 of one step": (r"weights.w2 must have the shape \[2, 3, 40\]", ValueError, weights(w1, b1, w2[:1], b2)),
        "b2 of two axes": (r"weights.b2 must have the shape \[2, 3\]", ValueError, weights(w1, b1, w2, b2[:, :2])),
        "three weights": (r"weights must be RefineWeights\(w1, b1, w2, b2\), got 3", TypeError, weights(w1, b1, w2)),
        "no steps": ("at least one step and at most 62, got 0", ValueError, weights(*(w[:0] for w in case.weights))),
        "63 steps": ("at most 62, got 63", ValueError, make(steps=63, hidden=1)),
        "no hidden units": ("at least one hidden unit, got 0", ValueError, weights(*no_hidden)),
    }


WRONG = wrong_cases()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name):
    """Whatever implementation would run: arguments are checked before one is chosen."""
    match, error, case = WRONG[name]
    with pytest.raises(error, match=match):
        call(case)
    with pytest.raises(error, match=match), use("reference"):
        call(case)


@pytest.mark.parametrize(
    ("size", "error", "match"),
    [
        ((0, 4), ValueError, "image_size must be a positive"),
        (224, TypeError, r"image_size must be \(height, width\) in whole pixels, got 224"),
        ((4, -1), ValueError, "image_size must be a positive"),
        ((112.5, 112), TypeError, r"image_size must be \(height, width\) in whole pixels, got \(112.5, 112\)"),
        ((112.0, 112.0), TypeError, "in whole pixels"),
        ((112,), TypeError, "in whole pixels"),
    ],
)
def test_wrong_image_sizes_are_named(size, error, match):
    with pytest.raises(error, match=match):
        call(make(), image_size=size)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"step_size": "0.1"}, TypeError, "step_size must be a number of metres, got str"),
        ({"step_size": None}, TypeError, "step_size must be a number of metres, got NoneType"),
        ({"step_size": [0.1, 0.05]}, TypeError, "step_size must be a number of metres, got list"),
        ({"step_size": torch.ones(2)}, TypeError, "step_size must be a number of metres, got Tensor"),
        ({"step_size": True}, TypeError, "step_size must be a number of metres, got bool"),
        ({"step_size": float("nan")}, ValueError, "step_size must be finite, got nan"),
        ({"step_size": float("inf")}, ValueError, "step_size must be finite, got inf"),
        ({"detach": "no"}, TypeError, "detach must be True or False, got 'no'"),
        ({"detach": None}, TypeError, "detach must be True or False, got None"),
    ],
)
def test_wrong_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        call(make(), **options)


def test_right_arguments_pass_without_the_slow_check(monkeypatch):
    def slow(*arguments):
        raise AssertionError("the slow check was called")

    # by this name: the attribute amt.kernels.refine is the function
    monkeypatch.setattr(sys.modules["amt.kernels.refine"], "_check", slow)
    for case in (make(), make(batch=0), make(joints=0), make().to("cpu", FLOAT64), make().to("cpu", FLOAT16)):
        call(case)
    narrow = make()
    call(replace(narrow, maps=[m.bfloat16() for m in narrow.maps]))


def test_unusual_arguments_that_are_right_pass():
    """The fast check does not know them; the slow one lets them pass."""
    case = make()
    expected = call(case)
    assert torch.equal(call(case, image_size=np.array(IMAGE_SIZE)), expected)
    assert torch.equal(call(case, image_size=torch.Size(IMAGE_SIZE)), expected)
    assert torch.equal(call(case, step_size=1), expected)
    assert torch.equal(call(case, step_size=np.float32(1)), expected)
    one = make(sizes=((4, 5, 1),))
    strided = torch.zeros(2, 4, 5, 3)
    strided[..., :1] = one.maps[0]
    # a single channel has no stride of its own
    assert torch.equal(call(replace(one, maps=(strided[..., :1].as_strided((2, 4, 5, 1), (60, 15, 3, 7)),))), call(one))


def test_every_other_device_reaches_the_reference():
    """Devices that are neither the CPU nor CUDA: their names alone, as no test machine has them."""
    for name in ("mps", "xpu", "hpu", "meta"):
        for dtype in (FLOAT32, FLOAT64):
            reasons = dict(_backend.explain("refine", torch.device(name), dtype))
            assert reasons.pop("reference") is None
            assert all(reasons.values()), f"on {name} in {dtype}: {reasons}"


def test_meta_tensors_have_shapes():
    case = make().to("meta")
    steps = call(replace(case, joints=case.joints.requires_grad_()))
    assert (steps.shape, steps.device.type, steps.dtype) == ((2, 2, 5, 3), "meta", FLOAT32)
    (gradient,) = torch.autograd.grad(steps.sum(), case.joints)
    assert gradient.shape == case.joints.shape


@pytest.mark.skipif(INTERPRETED, reason="there Triton runs on the CPU")
def test_triton_and_cuda_are_refused_on_the_cpu():
    for name in ("triton", "cuda"):
        with pytest.raises(BackendUnavailable, match="tensors only"), use(name):
            call(make())


@pytest.mark.parametrize("available", [("cuda", "triton"), ("cuda",), ("triton",), ()], ids="+".join)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("shared_memory", [SM_75, SM_80, SM_86, SM_90])
def test_choice_never_exceeds_what_an_implementation_takes(available, dtype, shared_memory):
    sizes = itertools.product(
        (0, 1, 8, 9, 512),
        (0, 1, 21, 128, 129),
        (1, 2, 37, 38, 62),
        (1, 256, 700, 810, 811, 1493, 1494, 2176, 2177, 10_000),
        (False, True),
    )
    for batch, num_joints, steps, hidden, graphed in sizes:
        shape = (num_joints, steps, hidden, dtype)
        name = choice.choose(batch, *shape, shared_memory=shared_memory, graphed=graphed, available=available)
        assert name == "reference" or name in available
        if name == "cuda":
            assert num_joints <= 128
            assert choice.cuda_bytes(*shape) <= shared_memory
        if name == "triton":
            assert dtype == FLOAT32
        if dtype == FLOAT32 and "triton" in available:
            assert name != "reference"


@pytest.mark.parametrize(
    ("shape", "memory", "expected"),
    [
        # (batch, joints, steps, hidden, dtype)
        ((1, 21, 2, 256, FLOAT32), SM_90, "cuda"),
        ((8, 21, 2, 256, FLOAT32), SM_90, "cuda"),
        ((9, 21, 2, 256, FLOAT32), SM_90, "triton"),
        ((1, 129, 2, 256, FLOAT32), SM_90, "triton"),
        # CUDA's backward would ask for more shared memory than there is
        ((1, 21, 2, 2176, FLOAT32), SM_90, "cuda"),
        ((1, 21, 2, 2177, FLOAT32), SM_90, "triton"),
        ((1, 21, 2, 1493, FLOAT32), SM_80, "cuda"),
        ((1, 21, 2, 1494, FLOAT32), SM_80, "triton"),
        ((1, 21, 2, 810, FLOAT32), SM_86, "cuda"),
        ((1, 21, 2, 811, FLOAT32), SM_86, "triton"),
        # its kernel for the maps' gradient holds 12 bytes a tap
        ((1, 128, 37, 256, FLOAT32), SM_90, "cuda"),
        ((1, 128, 38, 256, FLOAT32), SM_90, "triton"),
        # CUDA's forward holds 131,648 bytes in float64, which Triton does not take
        ((1, 21, 2, 256, FLOAT64), SM_90, "cuda"),
        ((512, 21, 2, 256, FLOAT64), SM_90, "cuda"),
        ((1, 21, 2, 256, FLOAT64), SM_80, "cuda"),
        ((1, 21, 2, 256, FLOAT64), SM_86, "reference"),
        ((1, 21, 2, 1000, FLOAT64), SM_90, "reference"),
    ],
)
def test_choice_on_a_gpu(shape, memory, expected):
    assert choice.choose(*shape, shared_memory=memory) == expected


def test_choice_in_a_graph_is_triton():
    """There the host's time does not count."""
    assert choice.choose(1, 21, 2, 256, FLOAT32, shared_memory=SM_90, graphed=True) == "triton"
    assert choice.choose(1, 21, 2, 256, FLOAT64, shared_memory=SM_90, graphed=True) == "cuda"


@over(lambda i: i.name == "auto")
@pytest.mark.parametrize("shape", [{"batch": 8}, {"batch": 9}, {"joints": 150}, {"hidden": 3000}], ids=str)
def test_auto_agrees_on_both_sides_of_each_limit(shape, implementation):
    case = make(**shape).to("cuda")
    case = replace(case, maps=tuple(m.half() for m in case.maps))  # with float32 weights, as a model under autocast
    arguments = (case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    torch.testing.assert_close(implementation.function(*arguments), reference.refine(*arguments), rtol=1e-4, atol=1e-5)


@over(lambda i: i.name == "cuda")
def test_more_joints_than_cuda_takes_are_refused(implementation):
    case = make(joints=choice.CUDA_MAX_JOINTS + 1).to("cuda")
    with pytest.raises(RuntimeError, match="at most 128 joints"):
        public(case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True, name="cuda")


@over(lambda i: i.name == "native")
def test_the_op_checks_what_it_is_given(implementation):
    """The native op alone, without the public function's checks."""
    case = make()
    arguments = [case.joints, case.intrinsics, list(case.maps), *case.weights, *IMAGE_SIZE, 1.0, True, False]
    for at, bad, match in [
        (0, case.joints[..., :2], r"joints must be|joints must have"),
        (2, [m.permute(0, 3, 1, 2) for m in case.maps], "channels last"),
        (3, case.weights[0][..., 1:], r"w1 must"),
        (4, case.weights[1].double(), "dtype or the joints'"),
    ]:
        with pytest.raises(RuntimeError, match=match):
            torch.ops.amt.refine.default(*arguments[:at], bad, *arguments[at + 1 :])


@over(lambda i: i.chosen_by == "triton")
def test_triton_refuses_what_it_cannot_do(implementation):
    from amt.kernels.refine import triton

    case = make().to(implementation.device)
    arguments = (case.joints, case.intrinsics, case.maps)
    with pytest.raises(ValueError, match="form must be"):
        triton.refine(*arguments, *case.weights, IMAGE_SIZE, 1.0, True, form="three_kernel")
    # the op alone: an empty grid would leave the weights' gradients unwritten
    w1, b1, w2, b2 = case.weights
    with pytest.raises(ValueError, match="must not be empty"):
        triton.refine(*arguments, w1[:, :0], b1[..., :0], w2[..., :0], b2, IMAGE_SIZE, 1.0, True)
    maps = [m[..., :0] for m in case.maps]
    with pytest.raises(ValueError, match="must not be empty"):
        triton.refine(*arguments[:2], maps, w1[..., -3:], b1, w2, b2, IMAGE_SIZE, 1.0, True)


@over(lambda i: i.chosen_by == "triton")
def test_the_public_function_takes_triton(implementation):
    from amt.kernels.refine import triton

    case = make().to(implementation.device)
    arguments = (case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    assert torch.equal(public(*arguments, name="triton"), triton.refine(*arguments))


def test_what_is_no_sequence_is_named():
    case = make()
    with pytest.raises(TypeError, match="maps must be a sequence of tensors, got NoneType"):
        refine(case.joints, case.intrinsics, None, RefineWeights(*case.weights), image_size=IMAGE_SIZE)
    with pytest.raises(TypeError, match=r"weights must be RefineWeights\(w1, b1, w2, b2\), got NoneType"):
        refine(case.joints, case.intrinsics, case.maps, None, image_size=IMAGE_SIZE)
