"""pose_scores: accuracy against float64, gradients of the maps, any shape, strides, what lies outside, NaN, the same bits."""

from __future__ import annotations

import functools

import helpers
import pytest
import torch
from frames_cases import generator, rotations
from helpers import assert_error_rule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import grid_sample

from amt.hand.camera import project
from amt.kernels import _backend, _triton, pose_scores, use
from amt.kernels.pose_scores import reference

native = helpers.native("pose_scores")
implementations = pytest.mark.parametrize("runs", helpers.implementations("pose_scores"), ids=str)
everywhere = pytest.mark.parametrize("runs", helpers.implementations("pose_scores", reference=True), ids=str)
PRECISION = {"triton": torch.float32}  # the most that an implementation computes in, float64 where none is named
SIZE = (96, 112)  # px of the image: height, width
SHAPES = {  # images, points, poses, the maps' height and width
    "search": (2, 128, 225, 28, 28),
    "one of all": (64, 1, 1, 1, 1),  # many images: of a single number, PyTorch's error may be 0 by chance
    "row": (2, 5, 17, 1, 7),
    "column": (2, 5, 15, 7, 1),
    "odd": (3, 17, 33, 5, 9),
    "many points": (1, 700, 3, 12, 14),
    "two blocks": (2, 19, 130, 6, 6),
    "more than a tile": (1, 5, 20, 35, 67),
}
if _triton.INTERPRETED:  # ten minutes otherwise
    SHAPES |= {"search": (1, 20, 65, 28, 28), "many points": (1, 70, 3, 12, 14), "one of all": (20, 1, 1, 1, 1)}


def in_every_dtype() -> list:
    """Parameters (runs, dtype) of a test."""
    return [
        pytest.param(runs, dtype, marks=p.marks, id=f"{p.id}-{dtype}")
        for p in helpers.implementations("pose_scores")
        for runs in p.values
        for dtype in (torch.float32, torch.float64)
        if dtype == torch.float32 or finest(runs) == dtype
    ]


def finest(runs: helpers.Runs) -> torch.dtype:
    return PRECISION.get(runs.name, torch.float64)


def make(shape, seed: int = 0) -> list[Tensor]:
    """Float64 arguments; the object at 0.6 m, most of it inside the image."""
    batch, points, poses, height, width = shape
    g = generator(seed)

    def draw(*size):
        return torch.randn(size, dtype=torch.float64, generator=g)

    camera = torch.tensor([[400.0, 3, 55], [0, 405, 50], [0, 0, 1]], dtype=torch.float64)
    return [
        3 * draw(batch, points, height, width),
        3 * draw(batch, 4, height, width),
        0.05 * draw(batch, points, 3),
        torch.nn.functional.normalize(draw(batch, points, 3), dim=-1),
        rotations(batch * poses, seed).view(batch, poses, 3, 3),
        0.05 * draw(batch, poses, 3) + torch.tensor([0.0, 0.0, 0.6], dtype=torch.float64),
        camera.repeat(batch, 1, 1),
    ]


def cast(arguments, *to) -> list[Tensor]:
    return [x.to(*to) for x in arguments]


def ours(*arguments: Tensor) -> Tensor:
    return pose_scores(*arguments, image_size=SIZE)


def defined(*arguments: Tensor) -> Tensor:
    return reference.pose_scores(*arguments, SIZE)


def results(function, arguments) -> list[Tensor]:
    """The scores, then the gradients of both maps, on the CPU."""
    maps = [x.detach().requires_grad_() for x in arguments[:2]]
    scores = function(*maps, *arguments[2:])
    seed = torch.randn(scores.shape, dtype=torch.float64, generator=generator(9)).to(scores)
    return [t.cpu() for t in (scores.detach(), *torch.autograd.grad(scores, maps, seed))]


def by_hand(colour, surface, points, normals, rotation, translation, intrinsics) -> float:
    """The score of one pose: loops over the points, the formula of the package's docstring."""
    score = weights = 0.0
    for own, p, q in zip(colour, points, normals):
        seen, normal = rotation @ p + translation, rotation @ q
        at = (project(seen[None], intrinsics)[0] + 0.5) / torch.tensor((SIZE[1] / 2, SIZE[0] / 2)) - 1
        sample = functools.partial(grid_sample, padding_mode="border", align_corners=False)
        own, shared = (sample(m, at.view(1, 1, 1, 2)).flatten() for m in (own[None, None], surface[None]))
        facing = -(seen @ normal) / seen.norm()
        weight = 1 / (1 + (-12 * (facing - 0.1)).exp())
        score += weight * (own[0] + shared[:3] @ normal + shared[3] * (-((facing / 0.2) ** 2)).exp())
        weights += weight
    return score / max(1, weights)


@everywhere
def test_the_formula(runs):
    arguments = make((1, 6, 4, 5, 7))
    tolerance = 1e-9 if finest(runs) == torch.float64 else 1e-5
    with use(runs.name):
        scores = ours(*cast(arguments, runs.device, finest(runs))).cpu().double()
    colour, surface, points, normals, rotation, translation, intrinsics = (x[0] for x in arguments)
    for k in range(4):
        expected = by_hand(colour, surface, points, normals, rotation[k], translation[k], intrinsics)
        torch.testing.assert_close(scores[0, k], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("runs", "dtype"), in_every_dtype())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_error_rule(runs, dtype, shape):
    arguments = cast(make(shape), dtype)
    with use(runs.name):
        found = results(ours, cast(arguments, runs.device))
    assert_error_rule(found, results(defined, cast(arguments, torch.float64)), results(defined, arguments))


@native
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (3, 40, 12, 12))),
    poses=st.integers(32, 80),
    seed=st.integers(0, 2**16),
)
def test_error_rule_on_any_shape(sizes, poses, seed):
    batch, points, height, width = sizes
    shape = (batch, points, poses, height, width)
    arguments = cast(make(shape, seed), torch.float32)
    truth = results(defined, cast(arguments, torch.float64))
    assert_error_rule(results(ours, arguments), truth, results(defined, arguments))


def placed(depth: float, across: float) -> list[Tensor]:
    """Arguments whose objects lie around ``depth`` m and ``across`` m to the right and down."""
    arguments = make((2, 20, 24, 6, 7))
    arguments[5] += torch.tensor([across, across, depth - 0.6], dtype=torch.float64)
    return cast(arguments, torch.float32)


@implementations
@pytest.mark.parametrize(
    ("depth", "across"), [(-0.6, 0.0), (0.0, 0.0), (0.6, 0.5), (0.6, -0.5), (0.6, 1e6), (1e-3, 1e30), (1e10, 0.0)]
)
def test_points_behind_the_camera_and_outside_the_image(runs, depth, across):
    arguments = placed(depth, across)
    with use(runs.name):
        found = results(ours, cast(arguments, runs.device))
    truth, peer = results(defined, cast(arguments, torch.float64)), results(defined, arguments)
    assert all(t.isfinite().all() for t in found)
    assert_error_rule(found, truth, peer)


@implementations
def test_an_object_at_the_camera_is_finite(runs):
    arguments = cast(make((1, 5, 3, 4, 4)), torch.float32)
    arguments[2].zero_(), arguments[5].zero_()
    with use(runs.name):
        found = results(ours, cast(arguments, runs.device))
    assert_error_rule(found, results(defined, cast(arguments, torch.float64)), results(defined, arguments))


@implementations
@pytest.mark.parametrize("which", range(7))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_image(runs, which, value):
    arguments = cast(make((3, 9, 20, 5, 6)), torch.float32)
    with use(runs.name):
        clean = results(ours, cast(arguments, runs.device))
        arguments[which][1, 0] = value
        dirty = results(ours, cast(arguments, runs.device))
    for a, b in zip(clean, dirty):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    truth = defined(*arguments)
    if which != 6:  # where intrinsics are not finite, every implementation takes a cell of its own choice
        assert torch.equal(dirty[0].isfinite(), truth.isfinite())


@implementations
def test_nan_in_a_cell_reaches_the_poses_that_see_it(runs):
    arguments = cast(make((1, 12, 60, 6, 6)), torch.float32)
    for index, cell in ((0, (0, 3, 2, 3)), (0, (0, 4, 5, 5)), (1, (0, 1, 0, 5))):
        arguments[index][cell] = float("nan")
    with use(runs.name):
        scores = ours(*cast(arguments, runs.device)).cpu()
    expected = defined(*arguments)
    assert 0 < expected.isnan().sum() < 60
    assert torch.equal(scores.isnan(), expected.isnan())


@native
def test_derivatives_in_float64():
    colour, surface, *rest = make((2, 4, 5, 3, 4))
    maps = [colour.requires_grad_(), surface.requires_grad_()]
    with use("native"):
        assert torch.autograd.gradcheck(lambda *m: ours(*m, *rest), maps)
        assert torch.autograd.gradgradcheck(lambda *m: ours(*m, *rest), maps)


@everywhere
def test_the_gradient_of_one_map_alone(runs):
    arguments = cast(make((2, 4, 5, 3, 4)), runs.device, finest(runs))
    with use(runs.name):
        both = results(ours, arguments)[1:]
        for which in (0, 1):
            one = [x.detach().requires_grad_(i == which) for i, x in enumerate(arguments)]
            scores = ours(*one)
            seed = torch.randn(scores.shape, dtype=torch.float64, generator=generator(9)).to(scores)
            torch.testing.assert_close(torch.autograd.grad(scores, one[which], seed)[0].cpu(), both[which])


@native
@pytest.mark.parametrize("which", range(2, 7))
def test_other_gradients_are_the_references(which):
    arguments = make((2, 4, 5, 3, 4))
    arguments[which].requires_grad_()
    with use("native"):
        (gradient,) = torch.autograd.grad(ours(*arguments).sum(), arguments[which])
        with torch.no_grad():
            torch.testing.assert_close(ours(*arguments), defined(*arguments))
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, torch.autograd.grad(defined(*arguments).sum(), arguments[which])[0])


@implementations
def test_the_backwards_derivative_is_the_forward(runs):
    """With respect to the gradient of the scores: the scores are linear in the maps."""
    arguments = cast(make((2, 6, 9, 4, 5)), torch.float32)

    def second(function, arguments) -> list[Tensor]:
        maps = [x.detach().requires_grad_() for x in arguments[:2]]
        scores = function(*maps, *arguments[2:])
        seed = torch.ones_like(scores, requires_grad=True)
        gradients = torch.autograd.grad(scores, maps, seed, create_graph=True)
        return [torch.autograd.grad(gradients, seed, [x.detach() for x in maps])[0].cpu()]

    with use(runs.name):
        found = second(ours, cast(arguments, runs.device))
    truth = [defined(*cast(arguments, torch.float64))]
    assert_error_rule(found, truth, second(defined, arguments))


@implementations
def test_opcheck(runs):
    colour, surface, *rest = cast(make((2, 3, 5, 4, 6)), runs.device, torch.float32)
    maps = colour.requires_grad_(), surface.requires_grad_()
    with use(runs.name):
        ours(*maps, *rest)  # registers the ops
    name = {"native": "pose_scores"}.get(runs.name, f"pose_scores_{runs.name}")
    forward, backward = (getattr(torch.ops.amt, op).default for op in (name, f"{name}_backward"))
    torch.library.opcheck(forward, (*maps, *rest, *SIZE))
    seed = torch.ones(2, 5, device=runs.device, requires_grad=True)
    torch.library.opcheck(backward, (seed, *rest, *SIZE, 4, 6))


@implementations
def test_compiles_whole(runs):
    with use(runs.name):
        compiles_whole(*cast(make((2, 9, 20, 4, 6)), runs.device, torch.float32))


def compiles_whole(colour, surface, *rest):
    maps = [colour.requires_grad_(), surface.requires_grad_()]

    def loss(colour, surface):
        return ours(2 * colour, surface.sin(), *rest).log_softmax(dim=1)[:, 0].sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*maps), loss(*maps))
    torch.testing.assert_close(torch.autograd.grad(compiled(*maps), maps), torch.autograd.grad(loss(*maps), maps))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*maps), loss(*maps))


class Module(torch.nn.Module):
    def forward(self, *arguments):
        return ours(*arguments).softmax(dim=1)


@everywhere
def test_exports(runs):
    arguments, more = ([x.float().to(runs.device) for x in make((n, 9, 20, 4, 6), seed=n)] for n in (2, 5))
    batch = torch.export.Dim("batch")
    with use(runs.name), torch.no_grad():
        program = torch.export.export(
            Module(), tuple(arguments), dynamic_shapes=(tuple({0: batch} for _ in arguments),)
        )
        torch.testing.assert_close(program.module()(*more), Module()(*more))


@native
@pytest.mark.filterwarnings("ignore:amt.kernels")  # of the fall back to the reference
def test_torch_func():
    colour, surface, *rest = make((3, 6, 7, 4, 5))

    def one(colour, surface, *geometry):
        return ours(*(x[None] for x in (colour, surface, *geometry)))[0]

    close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    close(torch.func.vmap(one)(colour, surface, *rest), ours(colour, surface, *rest))
    gradient = torch.func.vmap(torch.func.grad(lambda *a: one(*a).sin().sum()))(colour, surface, *rest)
    colour.requires_grad_()
    close(gradient, torch.autograd.grad(ours(colour, surface, *rest).sin().sum(), colour)[0])


@everywhere
@pytest.mark.parametrize(
    "shape", [(0, 4, 5, 3, 3), (2, 0, 5, 3, 3), (2, 4, 0, 3, 3)], ids=["images", "points", "poses"]
)
def test_nothing_to_score(runs, shape):
    with use(runs.name):
        scores, grad_colour, grad_surface = results(ours, cast(make(shape), runs.device, finest(runs)))
    assert torch.equal(scores, torch.zeros(shape[0], shape[2], dtype=finest(runs)))
    assert grad_colour.shape == (*shape[:2], 3, 3)
    assert torch.equal(grad_surface, torch.zeros(shape[0], 4, 3, 3, dtype=finest(runs)))


@implementations
def test_strided_and_expanded_inputs(runs):
    arguments = [x.float().to(runs.device) for x in make((2, 6, 9, 5, 4))]
    views = {
        "transposed": [x.mT.contiguous().mT if x.dim() > 2 else x for x in arguments],
        "every second": [x.repeat_interleave(2, dim=1)[:, ::2] for x in arguments],
        "sliced": [torch.cat((x, x), dim=-1)[..., x.shape[-1] :] for x in arguments],
    }
    with use(runs.name):
        expected = results(ours, arguments)
        for view in views.values():
            assert not any(x.is_contiguous() for x in view)
            assert all(map(torch.equal, results(ours, view), expected))
        same = [x[:1].expand(2, *x.shape[1:]) for x in arguments]
        assert torch.equal(ours(*same)[1], ours(*(x[:1] for x in arguments))[0])
        # an expanded gradient: what .sum() sends back
        maps = [x.clone().requires_grad_() for x in arguments[:2]]
        found = torch.autograd.grad(ours(*maps, *arguments[2:]).sum(), maps)
        torch.testing.assert_close(found, torch.autograd.grad(defined(*maps, *arguments[2:]).sum(), maps))


@implementations
def test_same_bits_wherever_a_pose_stands(runs):
    colour, surface, points, normals, rotation, translation, intrinsics = (
        x.float().to(runs.device) for x in make((2, 20, 300, 7, 6))
    )
    order = torch.randperm(300, generator=generator(1)).to(runs.device)
    with use(runs.name):
        first = ours(colour, surface, points, normals, rotation, translation, intrinsics)
        shuffled = ours(colour, surface, points, normals, rotation[:, order], translation[:, order], intrinsics)
        last = slice(299, 300)
        alone = ours(colour, surface, points, normals, rotation[:, last], translation[:, last], intrinsics)
    assert torch.equal(shuffled, first[:, order])
    assert torch.equal(alone, first[:, last])


@native
def test_same_bits_for_any_number_of_threads():
    arguments = cast(make((3, 70, 300, 10, 9)), torch.float32)
    many = results(ours, arguments)
    assert all(map(torch.equal, many, results(ours, arguments)))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert all(map(torch.equal, many, results(ours, arguments)))
    finally:
        torch.set_num_threads(threads)


@native
def test_every_number_is_written():
    """Memory that the allocator hands out again held NaN: what the kernel leaves out would show."""
    for shape in ((1, 1, 1, 1, 1), (2, 33, 17, 5, 6), (1, 16, 129, 3, 3)):
        arguments = cast(make(shape), torch.float32)
        for _ in range(3):
            sizes = (shape[0], shape[2]), arguments[0].shape, arguments[1].shape
            freed = [torch.full(tuple(s), float("nan")) for s in sizes]
            del freed
            assert all(t.isfinite().all() for t in results(ours, arguments))


@pytest.mark.skipif(not _triton.INSTALLED, reason="needs Triton")
def test_a_gpu_takes_triton_in_float32():
    able = {
        dtype: next(name for name, reason in _backend.explain("pose_scores", torch.device("cuda"), dtype) if not reason)
        for dtype in (torch.float32, torch.float64)
    }
    assert able == {torch.float32: "triton", torch.float64: "reference"}
