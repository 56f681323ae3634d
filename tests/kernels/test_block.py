"""The ops of a transformer block: the error rule in the interpreter (small) or on a GPU, and their code for sm_90."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_error_rule, implementations, relative_error

from amt.kernels import use
from amt.kernels._triton import INTERPRETED
from amt.kernels.block import add_norm, gelu_quantize, linear_gelu

over = pytest.mark.parametrize("runs", implementations("add_norm", reference=True), ids=str)
HALF = torch.float16 if INTERPRETED else torch.bfloat16
E4M3 = torch.float8_e4m3fn


def draw(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def block_inputs(rows, width, dtypes, device, scaled=True):
    """x, branch, scale, weight, bias; a scale as DINOv2's, and a residual stream whose channels differ."""
    x, branch, scale, weight, bias = draw((*rows, width), (*rows, width), (width,), (width,), (width,))
    x = 3 * x + torch.linspace(-2, 2, width)
    values = (x, branch, 0.5 + 0.1 * scale if scaled else None, 1 + 0.1 * weight, bias)
    return [None if v is None else v.to(device, t) for v, t in zip(values, dtypes)]


def results(function, inputs, seeds):
    inputs = [None if x is None else x.detach().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    gradients = torch.autograd.grad(
        outputs, [x for x in inputs if x is not None], [s.to(o) for s, o in zip(seeds, outputs)]
    )
    return [o.detach() for o in outputs] + list(gradients)


def composed(dtype):
    def function(x, branch, scale, weight, bias):
        total = x if branch is None else x + (branch if scale is None else branch * scale)
        wide = total.double() if total.dtype == torch.float64 else total.float()
        normed = F.layer_norm(wide, total.shape[-1:], weight.to(wide), bias.to(wide), 1e-6)
        return total * 1, normed.to(total.dtype if dtype is None else dtype)

    return function


def ours(runs, dtype=None, **options):
    def function(*inputs):
        with use(runs.name):
            total, operand = add_norm(*inputs, eps=1e-6, dtype=dtype, **options)
        return total * 1, operand.plain

    return function


MIXES = {  # dtypes of x, branch, scale, weight and bias; of the normed numbers
    "autocast": ((torch.float32, HALF, torch.float32, torch.float32, torch.float32), HALF),
    "half": ((HALF,) * 5, HALF),
    "float32": ((torch.float32,) * 5, torch.float32),
}


@over
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("rows", "width"), [((2, 5), 384), ((1,), 1024), ((3,), 33), ((300,), 64)], ids=str)
def test_error_rule(runs, rows, width, mix):
    dtypes, dtype = MIXES[mix]
    inputs = block_inputs(rows, width, dtypes, runs.device)
    seeds = [s.to(runs.device) for s in draw((*rows, width), (*rows, width), seed=1)]
    truth = results(composed(None), [x.double() for x in inputs], seeds)
    assert_error_rule(results(ours(runs, dtype), inputs, seeds), truth, results(composed(dtype), inputs, seeds))


@over
@pytest.mark.parametrize("left_out", ["scale", "branch"])
def test_without_scale_and_without_branch(runs, left_out):
    inputs = block_inputs((4,), 48, MIXES["autocast"][0], runs.device)
    inputs[2] = None
    if left_out == "branch":
        inputs[1] = None
    seeds = [s.to(runs.device) for s in draw((4, 48), (4, 48), seed=1)]
    truth = results(composed(None), [None if x is None else x.double() for x in inputs], seeds)
    assert_error_rule(results(ours(runs, HALF), inputs, seeds), truth, results(composed(HALF), inputs, seeds))


@over
def test_e4m3_numbers_and_their_scales(runs):
    inputs = block_inputs((2, 7), 96, MIXES["autocast"][0], runs.device)
    with use(runs.name), torch.no_grad():
        total, normed = add_norm(*inputs, dtype=HALF)
        again, operand = add_norm(*inputs, dtype=HALF, fp8=True)
    assert torch.equal(total, again)
    assert (operand.values.dtype, operand.values.shape, operand.scales.shape) == (E4M3, (2, 7, 96), (2, 7, 1))
    exact = composed(torch.float32)(*(x.float() for x in inputs))[1]
    torch.testing.assert_close(operand.scales, exact.abs().amax(-1, keepdim=True) / 448, rtol=1e-4, atol=0)
    assert 0.01 < relative_error(operand.values.float() * operand.scales, normed.plain) < 0.04
    with use(runs.name):
        trained = add_norm(*(x.requires_grad_() for x in inputs), dtype=HALF, fp8=True)[1]
    assert torch.equal(trained.plain, normed.plain)
    assert torch.equal(trained.values.float(), operand.values.float())


@over
def test_nan_stays_in_its_row_and_the_bits_are_the_same_twice(runs):
    inputs = block_inputs((5,), 40, MIXES["autocast"][0], runs.device)
    seeds = [s.to(runs.device) for s in draw((5, 40), (5, 40), seed=1)]
    expected = results(ours(runs, HALF), inputs, seeds)
    assert all(torch.equal(x, y) for x, y in zip(results(ours(runs, HALF), inputs, seeds), expected))
    inputs[0][2, 3] = float("nan")
    found = results(ours(runs, HALF), inputs, seeds)
    for x, y in zip(found[:4], expected[:4]):  # total, normed, and the gradients of x and branch
        assert torch.equal(x[[0, 1, 3, 4]], y[[0, 1, 3, 4]])
    assert found[1][2].isnan().all()


@over
def test_a_row_of_one_number_and_no_rows(runs):
    inputs = block_inputs((3,), 32, MIXES["float32"][0], runs.device, scaled=False)
    inputs[0].fill_(5), inputs[1].zero_()
    total, normed = ours(runs)(*inputs)
    assert torch.equal(normed, inputs[4].expand(3, 32))
    assert torch.equal(total, inputs[0])
    inputs = block_inputs((0, 4), 32, MIXES["float32"][0], runs.device)
    found = results(ours(runs), inputs, draw((0, 4, 32), (0, 4, 32)))
    assert found[0].shape == (0, 4, 32)
    assert not any(gradient.any() for gradient in found[2:])


@over
@pytest.mark.parametrize(("rows", "depth", "units"), [((2, 9), 64, 128), ((70,), 40, 72), ((1,), 96, 200)], ids=str)
def test_linear_gelu_keeps_the_error_rule(runs, rows, depth, units):
    x, weight, bias = (v.to(runs.device, HALF) for v in draw((*rows, depth), (units, depth), (units,)))
    weight = weight / depth**0.5
    seeds = [s.to(runs.device) for s in draw((*rows, units), seed=1)]

    def eager(*inputs):
        return (F.gelu(F.linear(*inputs)),)

    def function(*inputs):
        with use(runs.name):
            return (linear_gelu(*inputs),)

    truth = results(eager, [v.double() for v in (x, weight, bias)], seeds)
    ours = results(function, (x, weight, bias), seeds)
    assert_error_rule(ours, truth, results(eager, (x, weight, bias), seeds))
    with torch.no_grad():  # without what the backward reads: the same bits
        assert torch.equal(function(x, weight, bias)[0], ours[0])


@over
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "none"])
def test_gelu_quantize(runs, biased):
    product, bias = (v.to(runs.device) for v in draw((3, 5, 160), (160,)))
    bias = bias if biased else None
    seeds = [s.to(runs.device) for s in draw((3, 5, 160), seed=1)]

    def eager(product, bias):
        return (F.gelu(product if bias is None else product + bias.to(product.dtype)),)

    def function(product, bias):
        with use(runs.name):
            return (gelu_quantize(product, bias).plain,)

    half = product.to(HALF), bias if bias is None else bias.float()
    truth = results(eager, (half[0].double(), bias if bias is None else half[1].double()), seeds)
    ours = results(function, half, seeds)
    assert_error_rule(ours, truth, results(eager, half, seeds))
    with use(runs.name), torch.no_grad():
        operand = gelu_quantize(*half)
    assert operand.values.dtype == E4M3
    assert 0.01 < relative_error(operand.values.float() * operand.scales, truth[0]) < 0.04
    rows = operand.values.float().abs().amax(-1)
    assert torch.equal(rows, torch.full_like(rows, 448))  # the largest of each row is e4m3's largest


@over
def test_custom_ops_and_one_graph(runs):
    inputs = [x.requires_grad_() for x in block_inputs((2, 3), 32, MIXES["float32"][0], runs.device)]
    weight = (torch.randn(48, 32) / 6).to(runs.device).requires_grad_()

    def function(x, branch, scale, w, b):
        total, operand = add_norm(x, branch, scale, w, b)
        active = gelu_quantize(operand.plain @ weight.mT, None)
        return total.square().sum() + active.plain.sum()

    with use(runs.name):
        expected = torch.autograd.grad(function(*inputs), [*inputs, weight])
        torch._dynamo.reset()
        traced = torch.compile(function, fullgraph=True, backend="aot_eager")
        for x, y in zip(torch.autograd.grad(traced(*inputs), [*inputs, weight]), expected):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
        if runs.name == "triton":
            tests = ("test_schema", "test_autograd_registration", "test_faketensor")
            ops, x = torch.ops.amt, inputs[0].detach()
            half = [
                t.detach().to(HALF).requires_grad_() for t in (inputs[0][0], weight, torch.ones(48, device=x.device))
            ]
            for fp8 in (False, True):
                arguments = (*inputs, 1e-5, torch.float32, True, fp8, True)
                torch.library.opcheck(ops.add_norm_triton.default, arguments, test_utils=tests)
            torch.library.opcheck(ops.linear_gelu_triton.default, (*half, True), test_utils=tests)
            torch.library.opcheck(ops.gelu_quantize_triton.default, (x.requires_grad_(), None, True), test_utils=tests)


def test_what_they_do_not_take():
    x, weight = torch.randn(2, 8), torch.ones(8)
    with pytest.raises(ValueError, match=r"add_norm: branch must have the shape \[2, 8\], got \[2, 7\]"):
        add_norm(x, x[:, :7], None, weight, weight)
    with pytest.raises(ValueError, match=r"add_norm: weight must have the shape \[8\]"):
        add_norm(x, None, None, weight[:7], weight)
    with pytest.raises(ValueError, match="scale needs a branch, got None"):
        add_norm(x, None, weight, weight, weight)
    with pytest.raises(ValueError, match="at least one channel"):
        add_norm(x[:, :0], None, None, weight[:0], weight[:0])
    with pytest.raises(TypeError, match=r"linear_gelu: weight must be torch.float32"):
        linear_gelu(x, torch.ones(4, 8).double(), torch.ones(4))
    with pytest.raises(ValueError, match=r"gelu_quantize: bias must have the shape \[8\]"):
        gelu_quantize(x, torch.ones(7))


@pytest.mark.parametrize("wrong", [None, np.zeros((2, 3), np.float32)])
def test_what_is_no_tensor_is_named(wrong):
    with pytest.raises(TypeError, match="add_norm: x must be a tensor"):
        add_norm(wrong, None, None, torch.ones(3), torch.zeros(3))
    with pytest.raises(TypeError, match="linear_gelu: x must be a tensor"):
        linear_gelu(wrong, torch.ones(4, 3), torch.zeros(4))
    with pytest.raises(TypeError, match="gelu_quantize: product must be a tensor"):
        gelu_quantize(wrong, None)


@pytest.mark.parametrize("shape", [(), (2, 0)])
def test_rows_without_a_channel_are_refused(shape):
    empty = torch.zeros(shape)
    with pytest.raises(ValueError, match="linear_gelu: x must have at least one channel"):
        linear_gelu(empty, torch.ones(4, 0), torch.zeros(4))
    with pytest.raises(ValueError, match="gelu_quantize: product must have at least one channel"):
        gelu_quantize(empty, None)
