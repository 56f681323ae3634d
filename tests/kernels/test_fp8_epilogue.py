"""FP8 products with their epilogues: the op's definition, its arguments, the scale that it needs beforehand, CUTLASS's code.

The op itself runs on Hopper alone (mark ``gpu``). nvcc takes minutes to compile it: `python -m benchmarks.cutlass` does, and
leaves what it found beside a digest of the sources.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error

from amt.kernels import BackendUnavailable, fp8_linear, use
from amt.kernels.attention.fp8 import LARGEST, quantize
from amt.kernels.fp8_linear import epilogue
from benchmarks import cutlass

CARD = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OFF = epilogue.reason(CARD)
WHERE = [
    pytest.param("reference", torch.device("cpu"), id="reference"),
    pytest.param(
        "cuda", CARD, id="cutlass", marks=[pytest.mark.gpu, pytest.mark.skipif(OFF is not None, reason=str(OFF))]
    ),
]


def draw(rows, depth, units, device="cpu"):
    generator = torch.Generator().manual_seed(rows + depth + units)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(device)

    x, weight, bias = normal(rows, depth), normal(units, depth) * depth**-0.5, normal(units)
    x[:, 0] *= torch.linspace(0.1, 30, rows, device=device)  # scales differ from row to row
    weight[0] *= 20
    return quantize(x, 1), quantize(weight, 1), bias


def exact(x, weight, bias, gelu):
    out = (x[0].double() * x[1]) @ (weight[0].double() * weight[1]).t()
    out = out if bias is None else out + bias
    return F.gelu(out) if gelu else out


# one row, a tile's edge, ViT-L's tokens; tiles that are cut by every side
@pytest.mark.parametrize(("rows", "depth", "units"), [(1, 16, 16), (128, 128, 128), (257, 1024, 3072), (71, 80, 272)])
@pytest.mark.parametrize(("name", "device"), WHERE)
def test_every_epilogue_against_float64(name, device, rows, depth, units):
    x, weight, bias = draw(rows, depth, units, device)
    with use(name):
        for given in (bias, None):
            for gelu in (False, True):
                out = epilogue.fused(x, weight, given, gelu=gelu)
                assert (out.dtype, out.shape) == (torch.bfloat16, (rows, units))
                assert relative_error(out, exact(x, weight, given, gelu)) < 4e-3  # of bf16
        truth = exact(x, weight, bias, True)
        for largest in (truth.abs().amax(), truth.abs().amax(dim=1, keepdim=True)):  # one scale, or one a row
            scale = (largest / LARGEST).float().clamp(min=1e-6).view(-1, 1)
            out = epilogue.fused(x, weight, bias, gelu=True, factor=1 / scale)
            assert out.dtype == torch.float8_e4m3fn
            assert relative_error(out.double() * scale, truth) < 0.04  # of e4m3
        one_scale = x[0], x[1][:1]
        assert relative_error(epilogue.fused(one_scale, weight), exact(one_scale, weight, None, False)) < 4e-3
        assert torch.equal(epilogue.fused(x, weight, bias), epilogue.fused(x, weight, bias))


@pytest.mark.parametrize(("name", "device"), WHERE)
def test_what_is_too_large_saturates_and_nan_stays_in_its_row(name, device):
    x, weight, bias = draw(40, 64, 48, device)
    x[1][3] = float("nan")
    with use(name):
        out = epilogue.fused(x, weight, bias, gelu=True, factor=torch.full((1, 1), 1e6, device=device)).float()
        assert out[3].isnan().all()
        rest = torch.cat((out[:3], out[4:]))
        assert rest.max() == LARGEST
        assert rest.min() == -LARGEST
        plain = epilogue.fused(x, weight, bias)
        assert plain[3].isnan().all()
        assert not torch.cat((plain[:3], plain[4:])).isnan().any()
        assert epilogue.fused((x[0][:0], x[1][:0]), weight, bias).shape == (0, 48)


def test_the_reference_is_the_product_of_the_linear_layers():
    x, weight, _ = draw(30, 64, 32)
    expected = fp8_linear.product(x, weight, torch.float32)
    torch.testing.assert_close(epilogue.fused(x, weight), expected.bfloat16(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_no_row_exceeds_the_bound_and_one_reaches_it(seed):
    generator = torch.Generator().manual_seed(seed)
    weight, bias, gain, shift = (torch.randn(s, generator=generator) for s in ((96, 32), (96,), (32,), (32,)))
    bound = epilogue.bound(weight, bias, gain, shift)
    rows = torch.cat(
        (torch.randn(500, 32, generator=generator), weight * gain)
    )  # the last ones point along a unit's weights
    found = F.gelu(F.linear(F.layer_norm(rows, (32,), gain, shift), weight, bias)).abs().amax()
    assert 0.8 * bound < found < bound
    nothing = epilogue.bound(0 * weight, None, gain, shift)
    assert nothing == torch.tensor(epilogue.LEAST_GELU)


def test_arguments_are_named():
    x, weight, bias = draw(5, 32, 16)
    wide = torch.ones(5, 1)
    with pytest.raises(TypeError, match=r"fp8_linear: x must be torch\.float8_e4m3fn, got torch\.float32"):
        epilogue.fused((x[0].float(), x[1]), weight)
    with pytest.raises(ValueError, match=r"fp8_linear: scales of x must have the shape \[5, 1\], got \[4, 1\]"):
        epilogue.fused((x[0], x[1][:4]), weight)
    with pytest.raises(ValueError, match=r"fp8_linear: weight must have the shape \[N, 32\], got \[16, 16\]"):
        epilogue.fused(x, (weight[0][:, :16], weight[1]))
    with pytest.raises(ValueError, match=r"multiples of 16 for its sizes, got \[15, 32\]"):
        epilogue.fused(x, (weight[0][:15], weight[1][:15]))
    with pytest.raises(TypeError, match=r"fp8_linear: bias must be torch\.float32, got torch\.bfloat16"):
        epilogue.fused(x, weight, bias.bfloat16())
    with pytest.raises(ValueError, match="factor needs gelu=True"):
        epilogue.fused(x, weight, bias, factor=wide)
    if epilogue.reason(torch.device("cpu")) is not None:
        with use("cuda"), pytest.raises(BackendUnavailable, match="it runs on cuda tensors only"):
            epilogue.fused(x, weight)


def test_a_library_without_cutlass_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(
        epilogue._native, "missing", lambda op, device: f"the native library holds no CUDA kernel of {op}"
    )
    said = epilogue.reason(torch.device("cuda"))
    assert "holds no CUDA kernel of fp8_linear" in said
    assert "AMT_CUTLASS=on" in said


def test_cutlass_kernels_were_compiled_from_these_sources_and_do_not_spill():
    found = json.loads(cutlass.FILE.read_text())
    assert found["sources"] == cutlass.digest(), "csrc/fp8_linear has changed: run `python -m benchmarks.cutlass`"
    kernels = {(kernel["kernel"], kernel["shape"]): kernel for kernel in found["kernels"]}
    assert set(kernels) == {(path.stem[8:], tiles) for path in cutlass.kernels() for tiles in cutlass.TILES.values()}
    for name, kernel in kernels.items():
        assert not kernel["spills"], name
        assert {"QGMMA", "UTMALDG", "UTMASTG"} <= set(kernel["instructions"]), name


def test_what_the_tools_say_of_a_kernel_is_read():
    name, other = "aKernelTmaWarpSpecializedPingpong", "bKernelTmaWarpSpecializedCooperative"
    usage = "".join(
        f" Function {n}:\n  REG:{r} STACK:{s} SHARED:1024\n" for n, r, s in ((name, 168, 0), (other, 90, 8))
    )
    code = "".join(
        f".text.{n}:\n        /*0000*/  @!P0 {op} R1 ;\n        /*0010*/  EXIT ;\n"
        for n, op in ((name, "QGMMA.64x128x32"), (other, "STL"))
    )
    one, two = cutlass.read("linear", usage, code)
    assert (one["shape"], one["registers"], one["spills"], one["matrix"]) == (
        "tiles of 64 x 128",
        168,
        False,
        ["QGMMA"],
    )
    assert (two["shape"], two["registers"], two["spills"], two["matrix"]) == ("tiles of 128 x 128", 90, True, [])
