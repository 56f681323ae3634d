"""``frame_pointnet`` in Triton: launches, custom ops, autograd. Weights in float32, bfloat16 or float16, sums in float32."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels import _triton
from amt.kernels.frame_pointnet import triton_kernels

MAX_HIDDEN = 512  # all hidden units of a block of points are held at once
ENTRIES, POINTS, POINT_WARPS = 64, 32, 4  # the points' gradient


def frame_pointnet(points, origins, rotations, w1, b1, w2, b2, mask=None) -> Tensor:
    """As the reference.

    Raises:
        ValueError: more than 512 hidden units.
    """
    if w1.shape[0] > MAX_HIDDEN:
        raise ValueError(
            f"frame_pointnet: the Triton kernel takes at most {MAX_HIDDEN} hidden units, w1 has {w1.shape[0]}; "
            'use amt.kernels.use("reference")'
        )
    inputs = (points, origins, rotations, w1, b1, w2, b2)
    winners = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    return _forward(*inputs, mask, winners)[0]


def padded_hidden(hidden: int) -> int:
    return max(16, triton.next_power_of_2(hidden))


def blocks(hidden: int, features: int, dtype: torch.dtype, winners: bool) -> tuple[dict[str, int], int]:
    """The forward's blocks and warps, from shape and dtype alone; tests/kernels/test_frames_triton.py checks that sm_90 holds
    them. Small blocks leave room for a second and third program on a multiprocessor."""
    padded, wide = padded_hidden(hidden), dtype == torch.float32
    if padded <= 64:
        points, width, warps = (64, 64, 4) if wide else (64, 128, 8 if winners else 4)
    else:
        points, width, warps = max(16, 4096 // padded) if wide else 64, 64, 8
    width = min(width, max(16, triton.next_power_of_2(features)))
    return {"PADDED_D1": padded, "BLOCK_D2": width, "BLOCK_POINTS": points}, warps


def backward_blocks(hidden: int, features: int) -> tuple[dict[str, int], int]:
    padded = padded_hidden(hidden)
    width = max(1, min(triton.next_power_of_2(features), 1024 // padded))
    return {"PADDED_D1": padded, "BLOCK_D2": width}, 2


@torch.library.custom_op("amt::frame_pointnet_triton", mutates_args=())
def _forward(
    points: Tensor,
    origins: Tensor,
    rotations: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    mask: Tensor | None,
    need_winners: bool,
) -> tuple[Tensor, Tensor]:
    (batch, num_points), num_frames, (features, hidden) = points.shape[:2], origins.shape[1], w2.shape
    out = points.new_empty(batch, num_frames, features)
    winners = points.new_empty(out.shape if need_winners else (0,), dtype=torch.int32)
    if out.numel():
        block, warps = blocks(hidden, features, w2.dtype, need_winners)
        with torch.cuda.device_of(points):
            triton_kernels.forward_kernel[(batch * num_frames, triton.cdiv(features, block["BLOCK_D2"]))](
                points,
                *points.stride(),
                points if mask is None else mask.contiguous(),
                *(t.contiguous() for t in (origins, rotations, w1, b1, w2, b2)),
                out,
                winners,
                num_points,
                num_frames,
                D1=hidden,
                D2=features,
                **block,
                HAS_MASK=mask is not None,
                WINNERS=need_winners,
                UPCAST=_triton.INTERPRETED and w2.dtype == torch.bfloat16,
                num_warps=warps,
                num_stages=2,
            )
    return out, winners


@torch.library.custom_op("amt::frame_pointnet_triton_backward", mutates_args=())
def _backward(
    grad_features: Tensor,
    winners: Tensor,
    points: Tensor,
    origins: Tensor,
    rotations: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    need_points: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (batch, num_points), num_frames, (features, hidden) = points.shape[:2], origins.shape[1], w2.shape
    grad_points = points.new_zeros(batch, num_points, 3)
    block, warps = backward_blocks(hidden, features)
    num_blocks = triton.cdiv(features, block["BLOCK_D2"])
    winning = points.new_empty(batch, num_frames * features, 3)
    to_origins = points.new_empty(num_blocks, batch, num_frames, 3)
    to_rotations = points.new_empty(num_blocks, batch, num_frames, 3, 3)
    to_w1 = points.new_empty(num_blocks, batch, hidden, 3)
    to_b1 = points.new_empty(num_blocks, batch, num_frames, hidden)
    to_w2 = points.new_empty(batch, features, hidden)
    if batch and features and hidden:
        with torch.cuda.device_of(points):
            triton_kernels.backward_kernel[(batch, num_blocks)](
                grad_features.contiguous(),
                winners,
                points,
                *points.stride(),
                *(t.contiguous() for t in (origins, rotations, w1, b1, w2)),
                winning,
                to_origins,
                to_rotations,
                to_w1,
                to_b1,
                to_w2,
                batch,
                num_frames,
                D1=hidden,
                D2=features,
                **block,
                num_warps=warps,
            )
            if need_points and num_points and num_frames:
                triton_kernels.point_gradient_kernel[(batch, triton.cdiv(num_points, POINTS))](
                    winners,
                    winning,
                    grad_points,
                    num_frames * features,
                    num_points,
                    BLOCK_POINTS=POINTS,
                    BLOCK_ENTRIES=ENTRIES,
                    num_warps=POINT_WARPS,
                )
    # sums over a leading axis run in a fixed order
    return (
        grad_points,
        to_origins.sum(0),
        to_rotations.sum(0),
        to_w1.sum((0, 1)).to(w1.dtype),
        to_b1.sum((0, 1)).to(b1.dtype),
        to_w2.sum(0).to(w2.dtype),
    )


@_forward.register_fake
def _(points, origins, rotations, w1, b1, w2, b2, mask, need_winners):
    shape = (*origins.shape[:2], w2.shape[0])
    return points.new_empty(shape), points.new_empty(shape if need_winners else (0,), dtype=torch.int32)


@_backward.register_fake
def _(grad_features, winners, points, origins, rotations, w1, b1, w2, need_points):
    return tuple(t.new_empty(t.shape) for t in (points, origins, rotations, w1, b1, w2))


def _save(ctx, inputs, output) -> None:
    *tensors, b2, _mask, _need_winners = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.b2_dtype = b2.dtype
    ctx.mark_non_differentiable(output[1])


def _backward_formula(ctx, grad_features: Tensor, _grad_winners) -> tuple[Tensor | None, ...]:
    winners = ctx.saved_tensors[0]
    gradients = _backward(grad_features, *ctx.saved_tensors, ctx.needs_input_grad[0])
    to_b2 = torch.where(winners >= 0, grad_features, 0.0).sum((0, 1)).to(ctx.b2_dtype)
    return *gradients, to_b2, None, None


def _no_double_backward(ctx, *gradients):
    raise RuntimeError(
        "frame_pointnet: the Triton kernel has no second derivatives; "
        'compute inside `with amt.kernels.use("reference")` where they are needed'
    )


_forward.register_autograd(_backward_formula, setup_context=_save)
_backward.register_autograd(_no_double_backward)
