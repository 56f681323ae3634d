"""attention beside every back end that is installed and torch.compile, at the lengths of a ViT and a fusion transformer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention

from amt.kernels import attention
from amt.kernels.attention.back_ends import BACK_ENDS
from benchmarks.harness import Case, Rival

PART = "ops"
LARGEST_ERROR = 0.08  # of FP8, relative, against float64; what tests/kernels/test_attention_fp8.py allows
FP8_SHAPES = [(4, 16, 2048, 64), (4, 16, 4096, 64)]  # from where on FP8 is to pay
# batch, heads, tokens, head size: 224 px at batch 1 and 16 (S, B and L differ in heads only), fusion tokens, 518 px
GPU_SHAPES = [(1, 16, 257, 64), (16, 16, 257, 64), (16, 12, 257, 64), (16, 16, 261, 64), (16, 16, 321, 64),
              (16, 16, 577, 64), (16, 16, 1025, 64), (1, 16, 1370, 64), (16, 16, 1370, 64), (4, 16, 2048, 64),
              (4, 16, 4096, 64), (16, 8, 257, 128), (4, 8, 2048, 128)]  # fmt: skip
CPU_SHAPES = [(1, 6, 257, 64), (4, 6, 257, 64), (1, 6, 1370, 64)]


def case(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, backward: bool, precision: str = "auto"
) -> Case:
    batch, heads, tokens, size = shape
    products = 2 if not backward else 7  # q k^T and p v; backward recomputes the first and adds four
    traffic = 4 if not backward else 12  # q, k, v, o; backward reads those again with do and writes three gradients

    def inputs(generator: torch.Generator, batch: int = batch, heads: int = heads) -> tuple:
        draw = (batch, heads, tokens, size)
        return tuple(torch.randn(draw, generator=generator, device=generator.device).to(dtype) for _ in range(3))

    rivals = {"sdpa": Rival(scaled_dot_product_attention)}
    variants = {}
    if device.type == "cuda":
        rivals |= {name.replace("_", " "): by(name) for name in BACK_ENDS if name not in ("sdpa", "triton")}
        if precision == "fp8":
            rivals["bf16 triton"] = by("triton")
        else:
            variants = {"ours triton": by("triton")}
    return Case(
        op="attention" if precision == "auto" else f"attention {precision}",
        shape={"B": batch, "H": heads, "N": tokens, "D": size},
        dtype=dtype,
        device=device,
        inputs=inputs,
        check=lambda generator: inputs(generator, 1, 2),
        ours=lambda q, k, v: attention(q, k, v, precision=precision),
        eager=composed,
        rivals=rivals,
        variants=variants,
        flops=2.0 * products * batch * heads * tokens**2 * size,
        bytes=float(traffic * batch * heads * tokens * size * dtype.itemsize),
        backward=backward,
        bound=LARGEST_ERROR if precision == "fp8" else None,
        matrix="float8_e4m3fn" if precision == "fp8" else None,
    )


def composed(q, k, v):
    """The three operations that attention is, in the inputs' dtype."""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def by(name: str):
    """One back end; what is not installed raises, and the record says why."""
    return Rival(lambda q, k, v: attention(q, k, v, backend=name))


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        yield case((1, 2, 63, 64), torch.float32, device, backward=False)
        yield case((1, 2, 63, 64), torch.bfloat16, device, backward=True)
        return
    if device.type == "cuda":
        for shape in GPU_SHAPES:
            for backward in (False, True):
                yield case(shape, torch.bfloat16, device, backward)
        for shape in FP8_SHAPES:
            yield case(shape, torch.bfloat16, device, backward=False, precision="fp8")
        return
    for shape in CPU_SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            yield case(shape, dtype, device, backward=False)
        yield case(shape, torch.float32, device, backward=True)


def test_attention(case, measured):
    measured(case)
