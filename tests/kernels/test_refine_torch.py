"""``refine`` within PyTorch: opcheck, one graph under torch.compile, export, CUDA graphs; what its derivatives refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refine_cases import IMAGE_SIZE, Case, compiled, make, over, views

from amt.kernels import RefineWeights, refine, use
from amt.kernels._triton import INTERPRETED

native = over(lambda i: i.name == "native")
triton = over(lambda i: i.chosen_by == "triton")
SMALL = {"batch": 1, "joints": 3, "hidden": 8, "sizes": ((3, 3, 4),)} if INTERPRETED else {}


def loaded(implementation) -> Case:
    """A case; and the implementation's ops, which are registered at its first call."""
    case = make(**SMALL).to(implementation.device)
    implementation.function(case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    return case


def op_arguments(case: Case, option, device: str = "cpu") -> tuple:
    """Of the custom op: native's last argument says whether it saves, Triton's names the form."""
    case = replace(case, weights=tuple(w.contiguous() for w in case.weights)).to(device)
    return (case.joints, case.intrinsics, list(case.maps), *case.weights, *IMAGE_SIZE, 1.0, case.detach, option)


def require_gradients(arguments: tuple) -> None:
    for x in (*arguments[:2], *arguments[2], *arguments[3:7]):
        x.requires_grad_()


@native
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("make_case", [make, views, lambda: make(batch=0)], ids=["plain", "views", "B0"])
def test_opcheck(make_case, save, implementation):
    loaded(implementation)
    arguments = op_arguments(make_case(), save)
    if save:  # a call that saves nothing has no backward: autograd is checked on the one that does
        require_gradients(arguments)
    torch.library.opcheck(torch.ops.amt.refine.default, arguments)


@native
@pytest.mark.parametrize("needs", range(8))
def test_opcheck_of_backward(needs, implementation):
    loaded(implementation)
    arguments = op_arguments(make(), True)
    steps, saved = torch.ops.amt.refine.default(*arguments)
    torch.library.opcheck(
        torch.ops.amt.refine_backward.default, (torch.ones_like(steps), steps, saved, *arguments[:-1], needs)
    )


@triton
def test_opcheck_in_triton(implementation):
    arguments = op_arguments(loaded(implementation), implementation.name.removeprefix("triton-"), implementation.device)
    require_gradients(arguments)
    torch.library.opcheck(torch.ops.amt.refine_triton.default, arguments)


@triton
@pytest.mark.parametrize("needs", [1, 2, 4, 7])
def test_opcheck_of_backward_in_triton(needs, implementation):
    form = implementation.name.removeprefix("triton-")
    arguments = op_arguments(loaded(implementation), form, implementation.device)
    steps = torch.ops.amt.refine_triton.default(*arguments)
    torch.library.opcheck(
        torch.ops.amt.refine_triton_backward.default, (torch.ones_like(steps), steps, *arguments[:-1], needs)
    )


class Refiner(torch.nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        self.weights = torch.nn.ParameterList(case.weights)

    def forward(self, joints, intrinsics, maps):
        return refine(joints, intrinsics, maps, RefineWeights(*self.weights), image_size=IMAGE_SIZE)


@over(compiled)
@pytest.mark.parametrize("train", [True, False])
def test_compiles_in_one_graph(train, implementation):
    case = make(**SMALL).to(implementation.device)
    module = Refiner(case)
    arguments = (case.joints, case.intrinsics, case.maps)
    # the interpreter runs kernels that inductor would compile for a GPU
    backend = "aot_eager" if INTERPRETED else "inductor"
    with use(implementation.chosen_by), torch.set_grad_enabled(train):
        expected = module(*arguments)
        once = torch.compile(module, fullgraph=True, backend=backend)(*arguments)
    torch.testing.assert_close(once, expected, rtol=0, atol=0 if implementation.device == "cpu" else 1e-5)
    if train:
        gradients = [torch.autograd.grad(out.square().sum(), list(module.parameters())) for out in (expected, once)]
        for a, b in zip(*gradients):
            torch.testing.assert_close(a, b, rtol=0 if implementation.device == "cpu" else 1e-4, atol=1e-12)


@native
def test_exports(implementation):
    case = make(joints=21)
    module = Refiner(case)
    arguments = (case.joints, case.intrinsics, case.maps)
    with use("native"):
        program = torch.export.export(module, arguments)
    assert "amt.refine.default" in str(program.graph)
    assert torch.equal(program.module()(*arguments), module(*arguments))


@over(lambda i: i.device == "cuda" and i.name != "auto")
def test_takes_part_in_a_cuda_graph(implementation):
    case = make(joints=21, hidden=64).to("cuda")
    arguments = (case.joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    expected = implementation.function(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = implementation.function(*arguments)
    captured.fill_(float("nan"))
    graph.replay()
    assert torch.equal(captured, expected)


@over(compiled)
@pytest.mark.parametrize("wanted", [False, True])
def test_vmap_is_refused(wanted, implementation):
    case = make(**SMALL).to(implementation.device)
    rest = (case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    with pytest.raises(RuntimeError, match=r"amt\.kernels\.refine.* does not run under torch\.(func|vmap)"):
        torch.vmap(lambda joints: implementation.function(joints, *rest))(case.joints[None].requires_grad_(wanted))


@native
@pytest.mark.parametrize("wanted", [False, True])
def test_vmap_of_the_op_is_refused(wanted, implementation):
    case = loaded(implementation)
    joints, *rest = op_arguments(case, wanted)
    with pytest.raises(RuntimeError, match=r"does not run under torch\.vmap"):
        torch.vmap(lambda x: torch.ops.amt.refine.default(x, *rest))(joints[None])


@native
@pytest.mark.filterwarnings("ignore:amt.kernels")  # of the fall back to the reference
def test_torch_func(implementation):
    """The public op: gradients of an ensemble of hands on the same maps, against autograd of the native op."""
    case = make(joints=5)
    hands = torch.stack([case.joints, case.joints * 1.01])

    def loss(joints):
        return (
            refine(joints, case.intrinsics, case.maps, RefineWeights(*case.weights), image_size=IMAGE_SIZE).sin().sum()
        )

    expected = []
    for joints in hands:
        leaf = joints.clone().requires_grad_()
        expected.append(torch.autograd.grad(loss(leaf), leaf)[0])
    gradients = torch.func.vmap(torch.func.grad(loss))(hands)
    torch.testing.assert_close(gradients, torch.stack(expected))


@over(compiled)
def test_double_backward_is_refused(implementation):
    case = make(**SMALL).to(implementation.device)
    joints = case.joints.requires_grad_()
    rest = (case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, True)
    steps = implementation.function(joints, *rest)
    (gradient,) = torch.autograd.grad(steps.square().sum(), joints, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        gradient.sum().backward()


@native
def test_double_backward_of_the_op_is_refused(implementation):
    case = loaded(implementation)
    joints = case.joints.requires_grad_()
    steps, _ = torch.ops.amt.refine.default(*op_arguments(case, True))
    (gradient,) = torch.autograd.grad(steps.square().sum(), joints, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        gradient.sum().backward()


@native
def test_backward_of_a_call_that_saved_nothing_is_refused(implementation):
    case = loaded(implementation)
    case.joints.requires_grad_()
    steps, _ = torch.ops.amt.refine.default(*op_arguments(case, False))
    with pytest.raises(RuntimeError, match="amt::refine saved nothing for its backward"):
        steps.sum().backward()
