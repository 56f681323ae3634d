"""attention in Triton: in the interpreter (float16, small) or on a GPU, and its code for sm_90."""

import pytest
import torch
from helpers import assert_error_rule, compiled, implementations

from amt.kernels import _triton, attention, use
from amt.kernels._triton import INTERPRETED

over = pytest.mark.parametrize(
    "runs", [p for p in implementations("attention") if p.values[0].name == "triton"], ids=str
)
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]

# batch, heads, rows, keys, head size. Whole tiles are 128 rows or 64 keys forward, 64 and 128 (64) backward.
SHAPES = {
    "one-row": (2, 1, 1, 7, 64),
    "tails-only": (1, 2, 17, 63, 64),
    "whole-tiles": (1, 1, 128, 128, 64),
    "a-class-token": (1, 1, 257, 257, 64),
    "five-leading-tokens": (1, 1, 133, 133, 64),
    "more-than-half-a-tile-left": (1, 1, 120, 120, 128),
    "other-lengths": (1, 1, 40, 231, 64),
    "no-whole-tile-of-keys": (1, 1, 200, 20, 128),
}
# on a GPU also what takes the interpreter minutes
LARGE = {
    **{f"N{n}": (2, 3, n, n, 64) for n in (65, 577, 581, 1025, 1370, 2047, 4099)},
    **{f"256+{r}": (2, 3, 256 + r, 256 + r, 128) for r in range(9)},
    "4096-heads": (256, 16, 65, 65, 64),
}


def draw(shape, dtype, device, seed=0):
    batch, heads, rows, keys, size = shape
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, heads, n, size, generator=generator).to(device, dtype) for n in (rows, keys, keys))


def composed(q, k, v, scale):
    return torch.softmax(q @ k.mT * scale, dim=-1) @ v


def with_gradients(function, inputs, seed):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, seed.to(out.dtype))


def check(runs, inputs, scale):
    seed = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])

    def ours(*x):
        with use(runs.name):
            return attention(*x, scale=scale)

    truth = with_gradients(lambda *x: composed(*x, scale), [x.double() for x in inputs], seed)
    peer = with_gradients(lambda *x: composed(*x, scale), inputs, seed)
    results = with_gradients(ours, inputs, seed)
    assert_error_rule(results, truth, peer)
    with torch.no_grad(), use(runs.name):  # without the logarithms that the backward reads: the same bits
        assert torch.equal(attention(*inputs, scale=scale), results[0])


@over
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", (SHAPES if INTERPRETED else SHAPES | LARGE).values(), ids=SHAPES if INTERPRETED else SHAPES | LARGE
)
def test_error_rule(runs, shape, dtype):
    check(runs, draw(shape, dtype, runs.device), shape[4] ** -0.5)


@over
@pytest.mark.parametrize("size", [64, 128])
def test_tiles_of_cards_before_hopper(runs, size, monkeypatch):
    monkeypatch.setattr(_triton, "card", lambda device: _triton.Card(8, 108))
    check(runs, draw((1, 1, 73, 87, size), DTYPES[-1], runs.device), size**-0.5)


@over
@pytest.mark.parametrize("scale", [-0.3, 0.0, 2.0])
def test_any_scale(runs, scale):
    check(runs, draw((1, 1, 70, 80, 64), DTYPES[-1], runs.device), scale)


@over
def test_inputs_of_one_projection_and_heads_side_by_side(runs):
    packed = torch.randn(2, 70, 3, 2, 64, generator=torch.Generator().manual_seed(0)).to(runs.device, DTYPES[-1])
    q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    check(runs, (q, k, v), 0.125)
    with use(runs.name):
        out = attention(q, k, v)
        assert out.transpose(1, 2).is_contiguous()
        assert torch.equal(out, attention(q.contiguous(), k.contiguous(), v.contiguous()))
        assert torch.equal(out[:1, :1], attention(*(x[:1, :1] for x in (q, k, v))))


@over
def test_expanded_keys_and_a_gradient_that_is_one_number(runs):
    q, k, v = draw((2, 2, 20, 33, 64), DTYPES[-1], runs.device)
    shared = k[:, :1].expand(-1, 2, -1, -1)
    with use(runs.name):
        assert torch.equal(attention(q, shared, v), attention(q, shared.contiguous(), v))
        v.requires_grad_()
        (gradient,) = torch.autograd.grad(attention(q, k, v).sum(), v)  # its seed has stride 0
    torch.testing.assert_close(gradient.sum(2), torch.full_like(gradient.sum(2), 20), rtol=2e-2, atol=0)


@over
def test_scores_of_minus_infinity(runs):
    """Keys that a row scores with -inf have no weight, also where a whole tile is such, and no NaN comes of it."""
    q, k, v = draw((1, 1, 70, 200, 64), DTYPES[-1], runs.device)
    q[..., 0], k[..., 0], k[..., :150, 0] = 1, 0, float("-inf")
    expected = composed(*(x.double() for x in (q, k, v)), 0.125)
    with use(runs.name):
        out = attention(q, k, v, scale=0.125)
        assert_error_rule(out, expected, composed(q, k, v, 0.125))
        k[..., 0] = float("-inf")  # every score: the definition has 0 / 0
        assert attention(q, k, v, scale=0.125).isnan().all()


@over
def test_nan_stays_in_its_head(runs):
    q, k, v = draw((2, 2, 20, 40, 64), DTYPES[-1], runs.device)
    seed = torch.ones_like(q)

    def ours(*x):
        with use(runs.name):
            return attention(*x)

    expected = with_gradients(ours, (q, k, v), seed)
    q[1, 1, 3, 4] = k[1, 1, 5, 6] = v[1, 1, 7, 8] = float("nan")
    for x, y in zip(with_gradients(ours, (q, k, v), seed), expected, strict=True):
        assert torch.equal(x[0], y[0])
        assert torch.equal(x[1, 0], y[1, 0])
        assert x[1, 1].isnan().any()


@over
def test_the_same_bits_twice_whatever_new_memory_holds(runs):
    inputs = draw((1, 2, 70, 150, 64), DTYPES[-1], runs.device)
    seed = torch.randn_like(inputs[0])

    def ours(*x):
        with use(runs.name):
            return attention(*x)

    first = with_gradients(ours, inputs, seed)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        again = with_gradients(ours, inputs, seed)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@over
def test_one_key_and_no_tokens(runs):
    for shape in ((1, 2, 5, 1, 64), (1, 2, 5, 0, 64), (0, 2, 5, 5, 64), (1, 2, 0, 5, 64)):
        check(runs, draw(shape, DTYPES[-1], runs.device), 0.125)


@over
def test_custom_ops_and_one_graph(runs):
    inputs = [x.requires_grad_() for x in draw((1, 2, 17, 20, 64), DTYPES[-1], runs.device)]
    with use(runs.name):
        attention(*inputs)  # registers the ops
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")  # tracing is tested below
        torch.library.opcheck(torch.ops.amt.attention_triton.default, (*inputs, 0.125, True), test_utils=tests)
        torch._dynamo.reset()
        traced = torch.compile(attention, fullgraph=True, backend="aot_eager" if INTERPRETED else "inductor")
        seed = torch.ones_like(inputs[0])
        for x, y in zip(with_gradients(traced, inputs, seed), with_gradients(attention, inputs, seed), strict=True):
            assert torch.equal(x, y)


@over
def test_what_it_does_not_take(runs):
    q, k, v = draw((1, 1, 5, 5, 32), DTYPES[-1], runs.device)
    with use(runs.name):
        with pytest.raises(ValueError, match="head size D of 64 or 128, got 32"):
            attention(q, k, v)
        with pytest.raises(RuntimeError, match=r"cannot run .*float32: it computes in float16 and bfloat16"):
            attention(q.float(), k.float(), v.float())
        x = torch.randn(1, 1, 5, 64, device=runs.device, dtype=DTYPES[-1], requires_grad=True)
        (first,) = torch.autograd.grad(attention(x, x, x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="no double backward in Triton"):
            first.sum().backward()


@compiled
@pytest.mark.parametrize(
    ("rows", "keys", "size", "backward"),
    [(257, 257, 64, True), (577, 577, 64, False), (1370, 1370, 64, True), (63, 300, 64, True), (289, 289, 128, True)],
)
def test_sm_90_code(rows, keys, size, backward, monkeypatch):
    """No spills, and Hopper's own matrix instructions; two programs of the forward share a multiprocessor."""
    import aot

    from amt.kernels.attention import triton

    recorded = []

    def record(self, kernel, grid, *arguments, warps, stages=1, registers=None, **constants):
        recorded.append((kernel, arguments, constants, warps, stages, registers))

    monkeypatch.setattr(_triton.Launcher, "__call__", record)
    packed = torch.empty(16, max(rows, keys), 3, 16, size, device="meta", dtype=torch.bfloat16)
    q, k, v = (packed[:, :n, i].transpose(1, 2) for i, n in enumerate((rows, keys, keys)))
    out, log_totals = triton.forward(q, k, v, 0.125, backward)
    if backward:
        triton.backward(out, q, k, v, out, log_totals, 0.125)
    for kernel, arguments, constants, warps, stages, registers in recorded:
        code = aot.compile_for_hopper(kernel, arguments, constants, warps, stages, registers)
        name = kernel.fn.__name__
        assert code.stack == 0, f"{name} keeps {code.stack} bytes a thread in local memory"
        assert not code.instructions & {"LDL", "STL"}, f"{name} spills registers"
        assert "HGMMA" in code.instructions, name
        if name == "forward_kernel" and size == 64 and keys % 64 <= 32:
            assert 2 * 32 * warps * code.registers <= 65536
            assert 2 * code.shared <= 227 * 1024
