"""frame_pointnet: accuracy against float64, gradients of all inputs, masks, NaN, strides, odd sizes, the same bits."""

from __future__ import annotations

import functools

import helpers
import pytest
import torch
from frames_cases import generator
from helpers import assert_error_rule, interpreted
from hypothesis import given, settings
from hypothesis import strategies as st
from pointnet_cases import SHAPES, Arguments, composed, make, results

from amt.kernels import _backend, frame_pointnet, hand_frames, use
from amt.kernels._triton import INTERPRETED
from amt.kernels.frame_pointnet import reference

native = helpers.native("frame_pointnet")
implementations = pytest.mark.parametrize("runs", helpers.implementations("frame_pointnet"), ids=str)
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
masks = pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
WEIGHTS = [torch.float32, torch.bfloat16, torch.float16]


@native
@shapes
@masks
@pytest.mark.parametrize("dtype", [*WEIGHTS, torch.float64], ids=str)
def test_error_rule(shape, masked, dtype):
    arguments = make(shape, masked=masked).to(dtype)
    truth = results(reference.frame_pointnet, arguments.to(torch.float64))
    assert_error_rule(results(frame_pointnet, arguments), truth, results(reference.frame_pointnet, arguments))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@shapes
@masks
@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
def test_error_rule_on_a_gpu(shape, masked, dtype):
    arguments = make(shape, masked=masked).to(dtype)
    truth = results(reference.frame_pointnet, arguments.to(torch.float64))
    peer = [t.cpu() for t in results(composed, arguments.to("cuda"))]
    ours = [t.cpu() for t in results(frame_pointnet, arguments.to("cuda"))]
    # with two bytes another point may win a close maximum: gradients follow the winner, in PyTorch as here
    assert_error_rule(ours, truth, peer)


@native
@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 40, 5, 70, 150))),
    seed=st.integers(0, 2**16),
    masked=st.booleans(),
)
def test_error_rule_on_any_shape(shape, seed, masked):
    arguments = make(shape, seed, masked).to(torch.float32)
    truth = reference.frame_pointnet(*arguments.to(torch.float64).tensors(), arguments.mask)
    peer = reference.frame_pointnet(*arguments.tensors(), arguments.mask)
    assert_error_rule(frame_pointnet(*arguments.tensors(), arguments.mask), truth, peer)


@native
@masks
def test_gradcheck_in_float64(masked):
    arguments = make((2, 7, 2, 5, 6), masked=masked)
    inputs = [t.requires_grad_() for t in arguments.tensors()]
    with use("native"):
        assert torch.autograd.gradcheck(lambda *x: frame_pointnet(*x, arguments.mask), inputs)


@native
def test_second_derivatives_are_refused():
    inputs = [t.requires_grad_() for t in make((1, 4, 2, 5, 6)).tensors()]
    (gradient,) = torch.autograd.grad(frame_pointnet(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradient.sum().backward()


@native
def test_opcheck():
    inputs = [t.requires_grad_() for t in make((2, 5, 2, 6, 7)).to(torch.float32).tensors()]
    op = torch.ops.amt.frame_pointnet
    torch.library.opcheck(op.default, (*inputs, None))
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    with torch.no_grad():
        out, winners = op(*inputs, mask)
        torch.library.opcheck(op.default, (*(t.detach() for t in inputs), mask))
        backward = (torch.ones_like(out), winners, *(t.detach() for t in inputs))
        torch.library.opcheck(torch.ops.amt.frame_pointnet_backward.default, backward)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiles_whole_with_the_frames(dtype):
    a = make((2, 30, 22, 16, 24)).to(dtype)
    joints = 0.05 * torch.randn(2, 21, 3, generator=generator(1)).requires_grad_()

    def encode(joints, points, *weights):
        return frame_pointnet(points, *hand_frames(joints), *weights).square().sum()

    _backend._resolved.clear()  # traced cold: the choice of an implementation is part of what is compiled
    inputs = (joints, a.points.requires_grad_(), *(w.requires_grad_() for w in (a.w1, a.b1, a.w2, a.b2)))
    compiled = torch.compile(encode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), encode(*inputs))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(encode(*inputs), inputs)
    )


@native
@pytest.mark.filterwarnings("ignore:amt.kernels")  # of the fall back to the reference
def test_torch_func():
    """An ensemble of weights by vmap, the points' gradient by grad, jacrev and jvp: against the native op and its autograd."""
    a = make((2, 30, 3, 16, 24)).to(torch.float64)
    points, *rest = a.tensors()
    ensemble = torch.stack([rest[2], -rest[2], rest[2] * 0.5])  # of w1
    close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)

    def encode(points, w1=rest[2]):
        return frame_pointnet(points, *rest[:2], w1, *rest[3:])

    close(torch.func.vmap(encode, (None, 0))(points, ensemble), torch.stack([encode(points, w1) for w1 in ensemble]))
    leaf = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(encode(leaf).sin().sum(), leaf)
    close(torch.func.grad(lambda p: encode(p).sin().sum())(points), gradient)
    clouds = torch.stack([points, points.flip(1)])
    close(torch.func.vmap(torch.func.grad(lambda p: encode(p).sin().sum()))(clouds)[0], gradient)
    tangent = torch.randn(points.shape, dtype=points.dtype, generator=generator(2))
    moved = torch.func.jvp(lambda p: encode(p).sin().sum(), (points,), (tangent,))[1]
    close(moved, (gradient * tangent).sum())
    close(torch.func.jacrev(lambda p: encode(p).sin().sum())(points), gradient)


@implementations
@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
def test_same_bits(runs, dtype):
    shape = (
        (5, 70, 3, 33, 40) if INTERPRETED else (5, 203, 22, 64, 128)
    )  # the interpreter takes a minute for the large one
    arguments = make(shape, masked=True).to(dtype).to(runs.device)
    with use(runs.name):
        first = results(frame_pointnet, arguments)
        assert all(map(torch.equal, results(frame_pointnet, arguments), first))
        order = torch.randperm(5, generator=generator(2)).to(runs.device)
        shuffled = Arguments(
            *(t[order] if i < 3 else t for i, t in enumerate(arguments.tensors())), arguments.mask[order]
        )
        with torch.no_grad():
            features = frame_pointnet(*shuffled.tensors(), shuffled.mask)
            alone = frame_pointnet(
                *(t[3:4] if i < 3 else t for i, t in enumerate(arguments.tensors())), arguments.mask[3:4]
            )
    assert torch.equal(features, first[0][order])
    assert torch.equal(alone[0], first[0][3])


@native
def test_same_bits_for_any_number_of_threads():
    arguments = make((40, 100, 22, 64, 128)).to(torch.float32)
    many = results(frame_pointnet, arguments)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(frame_pointnet, arguments)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, many, one))


@implementations
def test_order_of_the_points_does_not_matter(runs):
    arguments = make((2, 203, 5, 64, 128)).to(torch.float32).to(runs.device)
    order = torch.randperm(203, generator=generator(2)).to(runs.device)
    with use(runs.name), torch.no_grad():
        shuffled = frame_pointnet(arguments.points[:, order], *arguments.tensors()[1:])
        torch.testing.assert_close(shuffled, frame_pointnet(*arguments.tensors()), rtol=0, atol=0)


@implementations
def test_only_winning_points_get_a_gradient(runs):
    arguments = make((1, 400, 2, 8, 6)).to(torch.float32).to(runs.device)
    with use(runs.name):
        grad_points = results(frame_pointnet, arguments)[1]
    touched = (grad_points[0] != 0).any(dim=-1).sum()
    assert 0 < touched <= 2 * 6


@native
def test_the_first_of_equal_points_takes_the_gradient():
    arguments = make((1, 6, 2, 8, 6)).to(torch.float32)
    arguments.points = arguments.points[:, :3].repeat(1, 2, 1)
    grad_points = results(frame_pointnet, arguments)[1]
    assert (grad_points[:, 3:] == 0).all()
    assert (grad_points[:, :3] != 0).any()


@implementations
def test_masked_points_do_not_count(runs):
    arguments = make((3, 90, 4, 64, 128), masked=True).to(torch.float32).to(runs.device)
    valid = arguments.mask[1]
    with use(runs.name):
        out, grad_points, *_ = results(frame_pointnet, arguments)
        arguments.points[~arguments.mask] = float("nan")  # not even looked at
        again = results(frame_pointnet, arguments)
        alone = frame_pointnet(
            arguments.points[1:2, valid], *(t[1:2] for t in arguments.tensors()[1:3]), *arguments.tensors()[3:]
        )
    assert (out[0] == 0).all()
    assert (grad_points[0] == 0).all()
    assert all(map(torch.equal, again, [out, grad_points, *_]))
    torch.testing.assert_close(alone[0], out[1], rtol=1e-6, atol=1e-6)


@implementations
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("frame", [0, 1])  # an implementation may store the points relative to the first origin
@pytest.mark.parametrize("which", ["points", "origins", "rotations"])
def test_what_is_not_finite_stays_in_its_image_and_frame(runs, which, frame, value):
    arguments = make((4, 70, 3, 64, 128)).to(torch.float32).to(runs.device)
    with use(runs.name), torch.no_grad():
        clean = frame_pointnet(*arguments.tensors())
        getattr(arguments, which)[2, frame] = value
        dirty = frame_pointnet(*arguments.tensors())
    others = torch.tensor([0, 1, 3], device=runs.device)
    assert torch.equal(dirty[others], clean[others])
    assert dirty[2, frame].isnan().all()
    if which != "points":  # the image's other frames are not concerned either
        torch.testing.assert_close(dirty[2, 1 - frame], clean[2, 1 - frame])
        torch.testing.assert_close(dirty[2, 2], clean[2, 2])


@native
@pytest.mark.parametrize("weight", ["w1", "b1", "w2", "b2"])
def test_nan_in_a_weight_shows(weight):
    arguments = make((2, 40, 3, 16, 24)).to(torch.float32)
    getattr(arguments, weight).view(-1)[5] = float("nan")
    ours, theirs = frame_pointnet(*arguments.tensors()), reference.frame_pointnet(*arguments.tensors())
    assert torch.equal(ours.isnan(), theirs.isnan())


@implementations
def test_huge_coordinates_overflow_as_in_pytorch(runs):
    arguments = make((1, 9, 2, 16, 24)).to(torch.float32).to(runs.device)
    arguments.points *= 1e20
    with use(runs.name):
        torch.testing.assert_close(
            frame_pointnet(*arguments.tensors()), reference.frame_pointnet(*arguments.tensors()), rtol=1e-5, atol=0
        )


@implementations
def test_strided_inputs(runs):
    arguments = make((3, 20, 4, 8, 12), masked=True).to(torch.float32).to(runs.device)
    with use(runs.name):
        expected = results(frame_pointnet, arguments)
        strided = Arguments(*(_strided(t) for t in arguments.tensors()), _strided(arguments.mask))
        assert not any(t.is_contiguous() for t in (*strided.tensors(), strided.mask))
        assert all(map(torch.equal, results(frame_pointnet, strided), expected))
        one = arguments.points[:1].expand(3, -1, -1)
        expanded = Arguments(one, *arguments.tensors()[1:], arguments.mask)
        copied = Arguments(one.contiguous(), *arguments.tensors()[1:], arguments.mask)
        assert all(map(torch.equal, results(frame_pointnet, expanded), results(frame_pointnet, copied)))


def _strided(t):
    return torch.stack([t, t], dim=-1)[..., 0]


@implementations
@pytest.mark.parametrize("shape", [(0, 5, 2, 6, 7), (2, 0, 3, 6, 7), (2, 5, 0, 6, 7)], ids=["B0", "N0", "F0"])
def test_nothing_to_do(runs, shape):
    arguments = make(shape).to(torch.float32).to(runs.device)
    with use(runs.name):
        ours = results(frame_pointnet, arguments)
    for x, t in zip(ours, (torch.zeros(shape[0], shape[2], shape[4]), *arguments.tensors())):
        assert x.shape == t.shape
        assert (x == 0).all()


@implementations
@pytest.mark.parametrize("shape", [(2, 5, 3, 0, 7), (2, 5, 3, 6, 0)], ids=["D1-0", "D2-0"])
def test_layers_without_units(runs, shape):
    """Memory that the allocator hands out again held NaN: a gradient that nobody writes would show."""
    arguments = make(shape).to(torch.float32).to(runs.device)
    expected = results(reference.frame_pointnet, arguments)
    freed = [torch.full_like(t, float("nan")) for t in (*expected, *expected)]
    del freed
    with use(runs.name):
        ours = results(frame_pointnet, arguments)
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y)


@native
def test_every_number_is_written():
    arguments = make((3, 33, 5, 20, 40), masked=True).to(torch.float32)
    shapes = [t.shape for t in results(frame_pointnet, arguments)]
    for _ in range(3):
        freed = [torch.full(s, float("nan")) for s in shapes]
        del freed
        assert all(t.isfinite().all() for t in results(frame_pointnet, arguments))


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_of_the_size_of_all_local_points_is_allocated(dtype):
    batch, frames, features = 4, 22, 128
    arguments = make((batch, 778, frames, 64, features)).to(dtype)
    peaks = {}
    for name, function in (("ours", frame_pointnet), ("eager", reference.frame_pointnet)):
        with torch.profiler.profile(profile_memory=True) as profile:
            function(*arguments.tensors())
        peaks[name] = max(e.cpu_memory_usage for e in profile.events())
    assert peaks["ours"] <= 4 * batch * frames * features * 4
    assert peaks["eager"] >= 20 * peaks["ours"]


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
def test_error_rule_in_the_interpreter(shape, masked, dtype):
    arguments = make(shape, masked=masked).to(dtype)
    with use("triton"):
        ours = results(frame_pointnet, arguments)
    truth = results(reference.frame_pointnet, arguments.to(torch.float64))
    peer = composed if dtype == torch.bfloat16 else reference.frame_pointnet  # in the weights' dtype
    assert_error_rule(ours, truth, results(peer, arguments))


@interpreted
def test_error_rule_of_float16_in_the_interpreter():
    """The second layer multiplies in float16 as PyTorch does; gradients follow another winner there, as PyTorch's do."""
    arguments = make((2, 50, 2, 64, 128)).to(torch.float16)
    with use("triton"):
        ours = frame_pointnet(*arguments.tensors())
    truth = reference.frame_pointnet(*arguments.to(torch.float64).tensors())
    assert_error_rule(ours, truth, composed(*arguments.tensors()))


@interpreted
def test_masked_points_are_not_read():
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
def test_strided_points_in_the_interpreter():
    arguments = make((2, 30, 3, 16, 24)).to(torch.float32)
    with use("triton"):
        expected = results(frame_pointnet, arguments)
        arguments.points = arguments.points.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert all(map(torch.equal, results(frame_pointnet, arguments), expected))


@interpreted
def test_the_triton_op_passes_pytorchs_checks():
    arguments = make((1, 9, 2, 6, 7)).to(torch.float32)
    inputs = [t.requires_grad_() for t in arguments.tensors()]
    with use("triton"):
        frame_pointnet(*arguments.tensors())  # registers the op
    torch.library.opcheck(torch.ops.amt.frame_pointnet_triton.default, (*inputs, None, True))


@interpreted
def test_too_many_hidden_units_are_refused():
    arguments = make((1, 3, 1, 513, 4)).to(torch.float32)
    with use("triton"), pytest.raises(ValueError, match="at most 512 hidden units, w1 has 513"):
        frame_pointnet(*arguments.tensors())


def test_wrong_arguments_are_named():
    a = make((2, 5, 3, 6, 7)).to(torch.float32)
    with pytest.raises(ValueError, match=r"frame_pointnet: b1 must have the shape \[3, 6\], got \[2, 6\]"):
        frame_pointnet(a.points, a.origins, a.rotations, a.w1, a.b1[:2], a.w2, a.b2)
    with pytest.raises(TypeError, match=r"w2 must be torch\.float32, got torch\.bfloat16"):
        frame_pointnet(a.points, a.origins, a.rotations, a.w1, a.b1, a.w2.bfloat16(), a.b2)
    with pytest.raises(TypeError, match=r"mask must be torch\.bool"):
        frame_pointnet(*a.tensors(), torch.ones(2, 5))
    with pytest.raises(TypeError, match=r"origins must be torch\.float32, got torch\.float64"):
        frame_pointnet(a.points, a.origins.double(), *a.tensors()[2:])
