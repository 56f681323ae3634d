"""FP8 linear layers of ViT-L beside bf16: QKV and fc2 with their biases, fc1 with GELU and the e4m3 numbers that fc2 reads.

Ours as the blocks' own modules call it, which quantise by plain PyTorch; then with x in e4m3 already, as LayerNorm and GELU leave
it in fused blocks: by PyTorch's product and a kernel after it, and by CUTLASS with all of it in the epilogue.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.kernels import fp8_linear
from amt.kernels.attention.fp8 import LARGEST, quantize
from amt.kernels.block import Operand, gelu_quantize
from amt.kernels.fp8_linear import epilogue
from amt.kernels.testing import relative_error
from benchmarks.harness import Case, Incorrect, Rival

PART = "encoder"
LARGEST_ERROR = 0.08  # relative, against float64
ROWS = (257, 4112, 21920)  # tokens of one image and of 16 at 224 px, of 16 at 518 px
LAYERS = (("qkv", 1024, 3072), ("fc1", 1024, 4096), ("fc2", 4096, 1024))
Result = Tensor | tuple[Tensor, Tensor]  # 16 bits; or e4m3 and scales


def plain(gelu: bool) -> Rival:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Result:
        out = F.linear(x, weight, bias)
        return F.gelu(out) if gelu else out

    return Rival(run)


def stand_alone(gelu: bool) -> Rival:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Result:
        out = fp8_linear.multiply(x, weight, x.dtype) + bias
        return F.gelu(out) if gelu else out

    return Rival(run)


def operands(x: Tensor, weight: Tensor, bias: Tensor) -> tuple:
    return (*quantize(x.float(), dim=1), *quantize(weight.float(), dim=1), bias)


def by_pytorch(gelu: bool, dtype: torch.dtype) -> Rival:
    def run(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Result:
        operand = Operand(x.new_empty(0, dtype=dtype), x, x_scale)
        out = fp8_linear.linear(operand, weight, (weight, weight_scale), dtype)
        return gelu_quantize(out, bias)[1:] if gelu else out + bias

    return Rival(run, operands)


def by_cutlass(gelu: bool) -> Rival:
    def prepare(x: Tensor, weight: Tensor, bias: Tensor) -> tuple:
        channels = x.shape[1]
        norm = x.new_ones(channels), x.new_zeros(channels)
        scale = (epilogue.bound(weight, bias, *norm) / LARGEST).view(1, 1)
        return *operands(x, weight, bias.float()), scale, scale.reciprocal()

    def run(x, x_scale, weight, weight_scale, bias, scale, factor) -> Result:
        out = epilogue.fused((x, x_scale), (weight, weight_scale), bias, gelu=gelu, factor=factor if gelu else None)
        return (out, scale) if gelu else out

    return Rival(run, prepare)


def case(layer: str, rows: int, channels: int, units: int, dtype: torch.dtype, device: torch.device) -> Case:
    gelu = layer == "fc1"
    eager, ours = plain(gelu), stand_alone(gelu)
    variants = {"ours, e4m3 given": by_pytorch(gelu, dtype)}
    if epilogue.reason(device) is None:
        variants["ours cutlass, e4m3 given"] = by_cutlass(gelu)

    def inputs(generator: torch.Generator, rows: int = rows) -> tuple:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device)

        return draw(rows, channels).to(dtype), (draw(units, channels) * channels**-0.5).to(dtype), draw(units).to(dtype)

    def verify() -> dict[str, float]:
        given = inputs(torch.Generator(device).manual_seed(0), min(rows, 257))
        truth = eager.function(*(t.double() for t in given))
        errors = {}
        for name, way in {"eager": eager, "ours": ours, **variants}.items():
            out = way.function(*way.prepare(*given))
            out = out if isinstance(out, Tensor) else out[0].double() * out[1]
            errors[name] = relative_error(out, truth)
            if not errors[name] <= LARGEST_ERROR:
                raise Incorrect(f"{layer} {rows}: {name} is off by {errors[name]:.3g}, {LARGEST_ERROR} allowed")
        return errors

    return Case(
        op="fp8 linear",
        shape={"layer": layer, "M": rows, "K": channels, "N": units},
        dtype=dtype,
        device=device,
        inputs=inputs,
        verify=verify,
        ours=ours.function,
        eager=eager.function,
        variants=variants,
        flops=2.0 * rows * channels * units,
        bytes=float(rows * channels + channels * units + (1 if gelu else 2) * rows * units),
        matrix="float8_e4m3fn" if device.type == "cuda" else None,
    )


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick or device.type != "cuda":
        yield case("fc1", 34, 64, 256, torch.float32, device)
        return
    for rows in ROWS:
        for layer, channels, units in LAYERS:
            yield case(layer, rows, channels, units, torch.bfloat16, device)


def test_fp8_linear(case, measured):
    measured(case)
