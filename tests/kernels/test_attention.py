"""attention: SDPA and the FP8 emulation against the definition, and the facts of FP8 that the design rests on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_error_rule, relative_error

from amt.kernels import attention
from amt.kernels.attention import fp8, reference, rivals

SHAPES = {"B2-H3-N63-D64": (2, 3, 63, 64), "B1-H2-N257-D128": (1, 2, 257, 128), "B3-H1-N1-D64": (3, 1, 1, 64)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def draw(shape, dtype=torch.float32, seed=0, keys=None):
    generator = torch.Generator().manual_seed(seed)
    batch, heads, tokens, size = shape
    lengths = (tokens, keys or tokens, keys or tokens)
    return tuple(torch.randn(batch, heads, n, size, generator=generator).to(dtype) for n in lengths)


def composed(q, k, v):
    """What a user would write, in the inputs' dtype."""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def with_gradients(function, inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape).to(torch.bfloat16)
    return out.detach(), *torch.autograd.grad(out, inputs, seed.to(out.dtype))


@shapes
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_rule_forward_and_gradients(shape, dtype):
    inputs = draw(shape, dtype)
    truth = with_gradients(composed, [x.double() for x in inputs])
    assert_error_rule(with_gradients(attention, inputs), truth, with_gradients(composed, inputs))


@pytest.mark.parametrize("size", [1, 30, 72, 257])
def test_any_head_size(size):
    inputs = draw((1, 2, 33, size))
    assert_error_rule(attention(*inputs), composed(*(x.double() for x in inputs)), composed(*inputs))


def test_cross_attention_takes_another_length():
    inputs = draw((2, 2, 5, 64), keys=70)
    assert_error_rule(attention(*inputs), composed(*(x.double() for x in inputs)), composed(*inputs))
    assert relative_error(attention(*inputs, precision="fp8"), composed(*inputs)) < 0.08


def test_bf16_precision_is_bf16_arithmetic_on_float32_inputs():
    inputs = draw((2, 3, 63, 64))
    out = attention(*inputs, precision="bf16")
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, attention(*(x.bfloat16() for x in inputs)).float(), rtol=0, atol=0)
    assert 1e-4 < relative_error(out, composed(*(x.double() for x in inputs))) < 1e-2


def test_scale():
    q, k, v = draw((1, 2, 17, 64))
    expected = reference.attention(q.double(), k.double(), v.double(), 0.3)
    assert relative_error(attention(q, k, v, scale=0.3), expected) < 1e-6
    assert relative_error(attention(q, k, v, scale=0.3, precision="fp8"), expected) < 0.15
    assert relative_error(attention(q, k, v), expected) > 0.1  # 0.3 is not the default


def test_gradcheck():
    inputs = [x.requires_grad_() for x in draw((1, 2, 5, 8), torch.float64)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, scale=0.5), inputs)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp8"])
@pytest.mark.parametrize("empty", ["B", "H", "N", "M"])
def test_empty(precision, empty):
    sizes = {"B": 2, "H": 3, "N": 4, "M": 4} | {empty: 0}
    q = torch.randn(sizes["B"], sizes["H"], sizes["N"], 64, requires_grad=True)
    k = torch.randn(sizes["B"], sizes["H"], sizes["M"], 64, requires_grad=True)
    out = attention(q, k, k, precision=precision)
    assert out.shape == q.shape
    assert not out.any()
    gradient_q, gradient_k = torch.autograd.grad(out.sum(), (q, k))
    assert not gradient_q.any()
    assert not gradient_k.any()


@pytest.mark.parametrize("precision", ["auto", "fp8"])
def test_strided_and_expanded_inputs(precision):
    packed = torch.randn(2, 63, 3, 4, 64, generator=torch.Generator().manual_seed(0))  # [B, N, 3, H, D], one projection
    q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    expected = attention(q.contiguous(), k.contiguous(), v.contiguous(), precision=precision)
    torch.testing.assert_close(attention(q, k, v, precision=precision), expected, rtol=1e-6, atol=1e-6)
    shared = k[:, :1].expand(-1, 4, -1, -1)
    expected = attention(q, shared.contiguous(), v, precision=precision)
    torch.testing.assert_close(attention(q, shared, v, precision=precision), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_head(precision, value):
    q, k, v = draw((2, 3, 17, 64))
    expected = attention(q, k, v, precision=precision)
    q[1, 2, 3, 4] = k[1, 2, 5, 6] = v[1, 2, 7, 8] = value
    out = attention(q, k, v, precision=precision)
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 2] = False
    assert torch.equal(out[others], expected[others])
    assert out[1, 2].isnan().any()


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp8"])
def test_compiles_in_one_graph(precision):
    inputs = draw((1, 2, 63, 64))
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: attention(*x, precision=precision), fullgraph=True, backend="aot_eager")
    expected = with_gradients(lambda *x: attention(*x, precision=precision), inputs)
    for x, y in zip(with_gradients(compiled, inputs), expected):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys", [63, 0])
def test_fp8_opcheck(keys):
    q, _, _ = draw((1, 2, 63, 64))
    k, v = torch.randn(2, 1, 2, keys, 64).unbind()
    inputs = tuple(x.requires_grad_() for x in (q, k, v))
    torch.library.opcheck(torch.ops.amt.attention_fp8_emulated.default, (*inputs, 0.125))


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fp8_backward_is_that_of_unquantised_attention(shape, dtype):
    inputs = draw(shape, dtype)
    ours = with_gradients(lambda *x: attention(*x, precision="fp8"), inputs)[1:]
    truth = with_gradients(composed, [x.double() for x in inputs])[1:]
    assert_error_rule(ours, truth, with_gradients(composed, inputs)[1:])


def test_auto_is_never_fp8_on_the_cpu():
    inputs = draw((1, 1, 2048, 64))
    assert relative_error(attention(*inputs), composed(*(x.double() for x in inputs))) < 1e-6


def test_e4m3_floor_on_normal_data():
    inputs = draw((1, 1, 1370, 64))
    truth = composed(*(x.double() for x in inputs))
    assert 0.047 < relative_error(attention(*inputs, precision="fp8"), truth) < 0.057
    assert relative_error(attention(*inputs, precision="bf16"), truth) < 0.01


def test_smoothing_keys_removes_outlier_channels():
    q, k, v = draw((1, 1, 1370, 64))
    k[..., ::16] += 20 * torch.randn(1, 1, 1, 4, generator=torch.Generator().manual_seed(1))
    truth = composed(q.double(), k.double(), v.double())
    error = {smooth: relative_error(fp8.emulate(q, k, v, 0.125, smooth=smooth), truth) for smooth in (False, True)}
    assert error[True] < 0.057  # the floor of normal data again
    assert error[False] > 1.5 * error[True]


def test_rotation_contains_single_outliers():
    generator = torch.Generator().manual_seed(
        102
    )  # another stream than the data's: equal seeds pick the values near zero
    inputs = draw((4, 2, 512, 64), seed=2)
    inputs = [x * torch.where(torch.rand(x.shape, generator=generator) < 1e-3, 10.0, 1.0) for x in inputs]
    truth = composed(*(x.double() for x in inputs))
    error = {rotate: relative_error(fp8.emulate(*inputs, 0.125, rotate=rotate), truth) for rotate in (False, True)}
    assert error[True] < 0.062
    assert error[True] < 0.97 * error[False]


def test_quantiser_saturates_and_covers_the_range():
    x = torch.tensor([[0.0, 0.0], [1e-20, -3e-20], [1e30, -2e30], [448.0, 3.0], [1e-42, 0.0], [float("nan"), 1.0]])
    values, scales = fp8.quantize(x, dim=1)
    back = values.float() * scales
    assert torch.isfinite(back[:5]).all()
    assert (back[:4] - x[:4]).abs().le(x[:4].abs() / 16 + 0.0).all()  # three fraction bits
    assert back[5].isnan().any()
    assert values.float()[1:4].abs().amax(1).eq(fp8.LARGEST).all()


def test_two_levels_of_accumulation_matter_and_suffice():
    generator = torch.Generator().manual_seed(0)
    a, _ = fp8.quantize(torch.rand(1, 1, 32, 8192, generator=generator), dim=3)
    b, _ = fp8.quantize(1 + torch.rand(1, 1, 8192, 64, generator=generator), dim=2)
    truth = a.double() @ b.double()
    assert relative_error(fp8._product(a, b, promote=None), truth) > 5e-3
    assert relative_error(fp8._product(a, b), truth) < 2e-4


def in_fp8(*inputs):
    return attention(*inputs, precision="fp8")


BAD = {
    "not a tensor": (lambda q, k, v: attention([1.0], k, v), TypeError, r"attention: q must be a tensor, got list"),
    "integers": (lambda q, k, v: attention(q.int(), k, v), TypeError, r"q must be torch.float16 or .*got torch.int32"),
    "three dimensions": (
        lambda q, k, v: attention(q[0], k, v),
        ValueError,
        r"q must have the shape \[B, H, N, D\], got",
    ),
    "other head size": (lambda q, k, v: attention(q, k[..., :32], v), ValueError, r"k must have .* \[1, 2, M, 64\]"),
    "other batch": (lambda q, k, v: attention(q, k.repeat(2, 1, 1, 1), v), ValueError, r"k must have the shape"),
    "other length": (lambda q, k, v: attention(q, k, v[:, :, 1:]), ValueError, r"v must have .* \[1, 2, 9, 64\]"),
    "mixed dtypes": (lambda q, k, v: attention(q, k.double(), v), TypeError, r"k must be torch.float32, got torch.fl"),
    "other device": (lambda q, k, v: attention(q, k.to("meta"), v), ValueError, r"k must be on cpu .* got meta"),
    "head size 0": (lambda *x: attention(*(y[..., :0] for y in x)), ValueError, r"D of at least 1, got 0"),
    "fp8 at 32": (lambda *x: in_fp8(*(y[..., :32] for y in x)), ValueError, r"64 or 128, got 32"),
    "fp8 in float64": (lambda *x: in_fp8(*(y.double() for y in x)), TypeError, r"got torch.float64"),
    "precision": (lambda *x: attention(*x, precision="int8"), ValueError, r"one of auto, bf16, fp8, got 'int8'"),
    "scale nan": (lambda *x: attention(*x, scale=float("nan")), ValueError, r"scale must be a finite number .*got nan"),
    "scale beyond floats": (lambda *x: attention(*x, scale=10**400), ValueError, r"scale must be a finite number"),
    "scale tensor": (lambda *x: attention(*x, scale=x[0]), ValueError, r"scale must be a finite number"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(*draw((1, 2, 9, 64)))


def test_rivals_are_listed_without_importing_them():
    names = [library.name for library in rivals.installed()]
    assert names == ["flash-attn", "flash-attn-3", "flash-attn-4", "xformers", "transformer-engine"]
    assert rivals._version("torch", "torch") == torch.__version__
    assert rivals._version("no-such", "no_such_module") is None
    assert rivals._version("no-such", "torch.no_such_module") is None


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["flash_attn/cute/__init__.py"], {"flash-attn-4"}),  # a namespace package: no flash_attn/__init__.py
        (["flash_attn/__init__.py", "flash_attn/flash_attn_interface.py"], {"flash-attn"}),
        (["flash_attn_interface.py"], {"flash-attn-3"}),
    ],
    ids=["4 alone", "2", "3"],
)
def test_each_flash_attention_is_told_from_the_others(tmp_path, files, found):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    code = "from amt.kernels.attention import rivals; print(*(l.name for l in rivals.installed() if l.version))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.startswith("flash")} == found


@pytest.mark.parametrize("precision", ["auto", "fp8"])
def test_autocast_does_not_reach_into_the_sums(precision):
    """Under autocast a product of float32 tensors would be rounded to bf16 between the steps of the definition."""
    inputs = draw((1, 2, 33, 64), torch.bfloat16)
    expected = with_gradients(lambda *x: attention(*x, precision=precision), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(lambda *x: attention(*x, precision=precision), inputs)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp8"])
def test_torch_func_and_forward_mode(precision):
    """Values as without; derivatives those of the attention that was not quantised."""
    q, k, v = draw((2, 2, 9, 64))
    tangent = draw((2, 2, 9, 64), seed=1)[0]

    def call(q):
        return attention(q, k, v, precision=precision)

    out, moved = torch.func.jvp(call, (q,), (tangent,))
    exact = torch.func.jvp(lambda q: composed(q, k, v), (q,), (tangent,))[1]
    assert relative_error(out, call(q)) < (1e-5 if precision == "auto" else 1e-2)
    assert relative_error(moved, exact) < (0.02 if precision == "bf16" else 1e-5)
    grad = torch.func.grad(lambda q: (call(q) * tangent).sum())(q)
    assert relative_error(grad, torch.func.grad(lambda q: (composed(q, k, v) * tangent).sum())(q)) < 0.02
    if precision == "fp8":
        assert torch.equal(out, call(q))
        mapped = torch.func.vmap(lambda q, k, v: attention(q[None], k[None], v[None], precision=precision)[0])(q, k, v)
        assert torch.equal(mapped, call(q))
