"""FP8 attention in Triton against its emulation: in the interpreter (small) or on a GPU, and its code for sm_90.

Two runs of the same quantisation differ where a sum in another order moves a weight across a boundary of e4m3.
"""

import pytest
import torch
from helpers import compiled, implementations, relative_error

from amt.kernels import _triton, attention, use
from amt.kernels._triton import INTERPRETED
from amt.kernels.attention import fp8, reference

over = pytest.mark.parametrize(
    "runs", [p for p in implementations("attention_fp8") if p.values[0].name == "triton"], ids=str
)
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16
TOKENS = 150 if INTERPRETED else 1370


def draw(shape, device, keys=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, heads, rows, size = shape
    lengths = (rows, keys or rows, keys or rows)
    return [torch.randn(batch, heads, n, size, generator=generator).to(device, DTYPE) for n in lengths]


def in_fp8(runs, *inputs, scale=0.125):
    with use(runs.name):
        return attention(*inputs, scale=scale, precision="fp8")


def exact(inputs, scale=0.125):
    return reference.attention(*(x.double() for x in inputs), scale)


@over
@pytest.mark.parametrize(("rows", "keys", "size"), [(1, 1, 64), (17, 129, 64), (130, 70, 128)])
def test_it_is_the_emulation(runs, rows, keys, size):
    inputs = draw((1, 2, rows, size), runs.device, keys)
    emulated = fp8.emulate(*inputs, 0.125)
    assert relative_error(in_fp8(runs, *inputs), emulated) < 0.025
    assert relative_error(in_fp8(runs, *inputs), exact(inputs)) < 0.07


def single_outliers(inputs):
    generator = torch.Generator().manual_seed(102)
    return [x * torch.where(torch.rand(x.shape, generator=generator) < 1e-3, 10.0, 1.0).to(x) for x in inputs]


def outlier_channels(inputs):
    q, k, v = inputs
    k = k.clone()
    k[..., ::16] += 20 * torch.randn(1, 1, 1, 4, generator=torch.Generator().manual_seed(1)).to(k)
    return [q, k, v]


@over
@pytest.mark.parametrize(
    ("change", "most"),
    [(list, 0.07), (single_outliers, 0.07), (outlier_channels, 0.08)],
    ids=["normal", "single", "channels"],
)
def test_error_bounds(runs, change, most):
    inputs = change(draw((1, 2, TOKENS, 64), runs.device, seed=2))
    assert relative_error(in_fp8(runs, *inputs), exact(inputs)) < most


@over
def test_strides_scales_and_the_same_bits_twice(runs):
    packed = torch.randn(2, 40, 3, 2, 64, generator=torch.Generator().manual_seed(0)).to(runs.device, DTYPE)
    q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    for scale in (0.125, -0.3, 0.0):
        out = in_fp8(runs, q, k, v, scale=scale)
        assert torch.equal(out, in_fp8(runs, q.contiguous(), k.contiguous(), v.contiguous(), scale=scale))
        assert relative_error(out, fp8.emulate(q, k, v, scale)) < 0.025
    with use(runs.name):
        assert attention(q.float(), k.float(), v.float(), precision="fp8").dtype == torch.float32


@over
def test_gradients_are_those_of_the_attention_that_was_not_quantised(runs):
    inputs = [x.requires_grad_() for x in draw((1, 1, 20, 64), runs.device, 33)]
    gradients = torch.autograd.grad(in_fp8(runs, *inputs).sum(), inputs)
    with use("triton"):
        expected = torch.autograd.grad(attention(*inputs, scale=0.125).sum(), inputs)
    assert all(torch.equal(x, y) for x, y in zip(gradients, expected, strict=True))


@over
def test_nan_stays_in_its_head_and_nothing_gives_zeros(runs):
    q, k, v = draw((1, 2, 20, 64), runs.device)
    expected = in_fp8(runs, q, k, v)
    q[0, 1, 3, 4] = k[0, 1, 5, 6] = v[0, 1, 7, 8] = float("nan")
    out = in_fp8(runs, q, k, v)
    assert torch.equal(out[0, 0], expected[0, 0])
    assert out[0, 1].isnan().any()
    assert not in_fp8(runs, q, k[:, :, :0], v[:, :, :0]).any()


@compiled
@pytest.mark.parametrize("size", [64, 128])
def test_sm_90_code(size, monkeypatch):
    """No spills, and Hopper's FP8 matrix instructions."""
    import aot

    from amt.kernels.attention import fp8_triton

    recorded = []

    def record(self, kernel, grid, *arguments, warps, stages=1, **constants):
        recorded.append((kernel, arguments, constants, warps, stages))

    monkeypatch.setattr(_triton.Launcher, "__call__", record)
    packed = torch.empty(16, 1370, 3, 16, size, device="meta", dtype=torch.bfloat16)
    fp8_triton.forward(*(packed[:, :, i].transpose(1, 2) for i in range(3)), 0.125)
    assert [kernel.fn.__name__ for kernel, *_ in recorded] == ["prepare_kernel", "fp8_kernel"]
    for kernel, *launch in recorded:
        code = aot.compile_for_hopper(kernel, *launch)
        assert code.stack == 0
        assert not code.instructions & {"LDL", "STL"}
        assert ("QGMMA" if kernel.fn.__name__ == "fp8_kernel" else "HGMMA") in code.instructions
