"""The shapes that ``python -m amt.kernels.aot`` compiles for: those of the goals, and of the model's own calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from amt.kernels._cubins import specialise
from amt.kernels._triton import HOPPER, Card, Launch, recorded

BF16, FLOAT32 = torch.bfloat16, torch.float32


def launches(op: str, card: Card = HOPPER) -> Iterator[tuple[str, Launch]]:
    """What ``op`` launches, each specialisation of a kernel once, with the name of the first shape. Nothing is computed."""
    seen = set()
    for shape, call in OPS[op]():
        with recorded(card=card) as found:
            call()
        for launch in found:
            key = launch.kernel.cache_key, specialise(launch).text(launch)
            if key not in seen:
                seen.add(key)
                yield shape, launch


def empty(*shape: int, dtype: torch.dtype = FLOAT32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _refine() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.refine import triton, triton_backward

    def call(sizes, maps: torch.dtype, weights: torch.dtype):
        channels, hidden, steps, joints = sum(size[2] for size in sizes), 256, 2, 21
        problem = (
            empty(512, joints, 3),
            empty(512, 3, 3),
            [empty(512, *size, dtype=maps) for size in sizes],
            empty(steps, hidden, channels + 3, dtype=weights),
            empty(steps, joints, hidden, dtype=weights),
            empty(steps, 3, hidden, dtype=weights),
            empty(steps, 3, dtype=weights),
            224,
            224,
            1.0,
            True,
        )
        for form in triton.FORMS:
            out = triton.forward(*problem, form)
        triton_backward.backward(out, out, *problem, 7)

    pyramid, single = ((16, 16, 256), (32, 32, 256), (64, 64, 256)), ((16, 16, 1024),)
    for name, sizes in (("pyramid", pyramid), ("single map", single)):
        for maps, weights in ((BF16, BF16), (BF16, FLOAT32), (FLOAT32, FLOAT32)):
            said = f"{name}, maps {_name(maps)}, weights {_name(weights)}"
            yield said, lambda sizes=sizes, maps=maps, weights=weights: call(sizes, maps, weights)


def _hand_frames() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.hand_frames import triton

    def call():
        joints = empty(512, 21, 3)
        origins, rotations = triton.forward(joints)
        triton.backward(origins, rotations, joints)

    yield "B 512", call


def _frame_pointnet() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.frame_pointnet import triton

    def call(weights: torch.dtype):
        batch, points, frames, hidden, features = 512, 778, 22, 64, 128
        inputs = (
            empty(batch, points, 3),
            empty(batch, frames, 3),
            empty(batch, frames, 3, 3),
            *(empty(*s, dtype=weights) for s in ((hidden, 3), (frames, hidden), (features, hidden), (features,))),
        )
        for winners in (False, True):
            out, chosen = triton.forward(*inputs, None, winners)
        triton.backward(out, chosen, *inputs, True)

    for weights in (FLOAT32, BF16):
        yield f"B 512, 778 points, weights {_name(weights)}", lambda weights=weights: call(weights)


def _pose_scores() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.pose_scores import triton

    def call(poses: int, with_backward: bool):
        batch, points, side = 16, 128, 28
        geometry = [empty(batch, *shape) for shape in ((points, 3), (points, 3), (poses, 3, 3), (poses, 3), (3, 3))]
        scores = triton.forward(empty(batch, points, side, side), empty(batch, 4, side, side), *geometry, 112, 112)
        if with_backward:
            triton.backward(scores, *geometry, 112, 112, side, side)

    yield "B 16, 1,024 poses", lambda: call(1024, False)
    yield "B 16, 225 poses", lambda: call(225, True)


def _heads(tokens: int, size: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of 16 images and 16 heads, as one projection leaves them."""
    packed = empty(16, tokens, 3, 16, size, dtype=BF16)
    return tuple(packed[:, :, i].transpose(1, 2) for i in range(3))


def _attention() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.attention import triton

    def call(tokens: int, size: int):
        q, k, v = _heads(tokens, size)
        triton.forward(q, k, v, size**-0.5, False)
        out, log_totals = triton.forward(q, k, v, size**-0.5, True)
        triton.backward(out, q, k, v, out, log_totals, size**-0.5)

    for tokens, size in ((257, 64), (261, 64), (577, 64), (1025, 64), (1370, 64), (257, 128), (289, 128)):
        yield f"{tokens} tokens, heads of {size}", lambda tokens=tokens, size=size: call(tokens, size)


def _attention_fp8() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.attention import fp8_triton

    for size in (64, 128):
        yield f"1370 tokens, heads of {size}", lambda size=size: fp8_triton.forward(*_heads(1370, size), size**-0.5)


def _block() -> Iterator[tuple[str, Callable]]:
    from amt.kernels.block import triton

    def call(width: int, fp8: bool):
        x, branch = empty(16, 257, width), empty(16, 257, width, dtype=BF16)
        channel = empty(width)
        total, normed, _, _, mean, deviation = triton.norm_forward(
            x, branch, channel, channel, channel, 1e-6, BF16, True, fp8, True
        )
        triton.norm_backward(total, normed, total, branch, channel, channel, mean, deviation, FLOAT32, BF16)
        if fp8:
            triton.quantize_forward(empty(16, 257, 4 * width, dtype=BF16), empty(4 * width, dtype=BF16), True)

    def product(width: int, images: int):
        rows = empty(images * 257, width, dtype=BF16)
        triton.linear_forward(rows, empty(4 * width, width, dtype=BF16), empty(4 * width, dtype=BF16), True)

    for width in (384, 1024):
        for fp8 in (False, True):
            said = f"{width} channels{', e4m3' if fp8 else ''}"
            yield said, lambda width=width, fp8=fp8: call(width, fp8)
    for width, images in ((1024, 16), (1024, 1), (384, 16)):
        said = f"{width} to {4 * width} channels, {257 * images} rows"
        yield said, lambda width=width, images=images: product(width, images)


def _name(dtype: torch.dtype) -> str:
    return {BF16: "bf16", FLOAT32: "fp32"}[dtype]


OPS: dict[str, Callable[[], Iterator[tuple[str, Callable]]]] = {
    "refine": _refine,
    "hand_frames": _hand_frames,
    "frame_pointnet": _frame_pointnet,
    "pose_scores": _pose_scores,
    "attention": _attention,
    "attention_fp8": _attention_fp8,
    "block": _block,
}
