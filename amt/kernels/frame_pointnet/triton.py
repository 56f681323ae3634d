"""``frame_pointnet`` in Triton: launches and custom ops. Weights in float32, bfloat16 or float16, sums in float32."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from amt.kernels import _torch_private, _triton
from amt.kernels._plans import planned
from amt.kernels.frame_pointnet import autograd, triton_kernels

MAX_HIDDEN = 512  # all hidden units of a block of points are held at once
PREPARED_POINTS, PREPARE_WARPS = 64, 4
ENTRIES, POINTS, POINT_WARPS = 64, 128, 4  # the points' gradient

_TENSORS = "Tensor points, Tensor origins, Tensor rotations, Tensor w1, Tensor b1, Tensor w2, Tensor b2"
_OP, _BACKWARD = "amt::frame_pointnet_triton", "amt::frame_pointnet_triton_backward"
torch.library.define(_OP, f"({_TENSORS}, Tensor? mask, bool need_winners) -> (Tensor, Tensor)")
torch.library.define(
    _BACKWARD,
    f"(Tensor grad_features, Tensor winners, {_TENSORS}, bool need_points)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


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
    if torch.compiler.is_compiling() or winners:
        return torch.ops.amt.frame_pointnet_triton.default(*inputs, mask, winners)[0]
    # autograd registered in Python costs several launches on the host
    with _torch_private.AutoDispatchBelowAutograd():
        return torch.ops.amt.frame_pointnet_triton.default(*inputs, mask, False)[0]


def padded_hidden(hidden: int) -> int:
    return max(16, triton.next_power_of_2(hidden))


def blocks(hidden: int, features: int, dtype: torch.dtype, winners: bool, major: int = 9) -> tuple[dict[str, int], int]:
    """The forward's blocks and warps, from shape, dtype and architecture alone; tests/kernels/test_frames_triton.py checks that
    sm_90 holds them. Small blocks leave room for a second and third program on a multiprocessor; before Hopper the operands
    of a product take registers, too."""
    padded, wide = padded_hidden(hidden), dtype == torch.float32
    parts = {"COLUMNS": 32, "PARTS": 3} if wide else {"COLUMNS": 16, "PARTS": 2}
    if padded <= 64:
        points, width, warps = 64, 64 if wide or winners else 128, 4
        if wide and winners and major < 9:
            width = 32
    else:
        points, width, warps = 64, 64, 8
    width = min(width, max(16, triton.next_power_of_2(features)))
    return {**parts, "PADDED_D1": padded, "BLOCK_D2": width, "BLOCK_POINTS": points}, warps


def backward_blocks(hidden: int, features: int, dtype: torch.dtype) -> tuple[dict[str, int], int]:
    """One warp a program where its registers suffice: a frame has two dozen sums, and none then waits for another warp."""
    padded = padded_hidden(hidden)
    width = max(1, min(triton.next_power_of_2(features), 1024 // padded))
    return {"PADDED_D1": padded, "BLOCK_D2": width}, 4 if padded > 64 else 2 if dtype == torch.float32 else 1


def forward(points, origins, rotations, w1, b1, w2, b2, mask, need_winners):
    (batch, num_points), num_frames, (features, hidden) = points.shape[:2], origins.shape[1], w2.shape
    out = points.new_empty(batch, num_frames, features)
    winners = points.new_empty(out.shape if need_winners else (0,), dtype=torch.int32)
    if out.numel() == 0:
        return out, winners
    block, warps = blocks(hidden, features, w2.dtype, need_winners, _triton.card(points.device).major)
    size = block["BLOCK_POINTS"]
    rows = max(1, -(-num_points // size)) * size
    origins, rotations, w1, b1, w2, b2 = (t.contiguous() for t in (origins, rotations, w1, b1, w2, b2))
    has_mask = mask is not None
    mask = mask.contiguous() if has_mask else points
    prepared = points.new_empty(batch, rows, block["COLUMNS"], dtype=torch.bfloat16)
    valid_point = points.new_empty(batch, dtype=torch.int32)
    nan_of_points = points.new_empty(batch)
    inputs = (points, mask, origins, rotations, w1, b1, w2, b2)
    launch = _triton.launcher(("frame_pointnet", has_mask, need_winners, *map(_triton.signature, inputs)))
    with torch.cuda.device_of(points):
        launch(
            triton_kernels.prepare_kernel,
            (batch,),
            points,
            *points.stride(),
            mask,
            origins,
            prepared,
            valid_point,
            nan_of_points,
            num_points,
            num_frames,
            warps=PREPARE_WARPS,
            ROWS=rows,
            COLUMNS=block["COLUMNS"],
            PARTS=block["PARTS"],
            BLOCK=PREPARED_POINTS,
            HAS_MASK=has_mask,
        )
        launch(
            triton_kernels.forward_kernel,
            (batch * num_frames, -(-features // block["BLOCK_D2"])),
            prepared,
            valid_point,
            nan_of_points,
            mask,
            origins,
            rotations,
            w1,
            b1,
            w2,
            b2,
            out,
            winners,
            num_points,
            num_frames,
            warps=warps,
            stages=3,
            D1=hidden,
            D2=features,
            ROWS=rows,
            **block,
            HAS_MASK=has_mask,
            WINNERS=need_winners,
            UPCAST=_triton.INTERPRETED,
        )
    return out, winners


def backward(grad_features, winners, points, origins, rotations, w1, b1, w2, b2, need_points):
    (batch, num_points), num_frames, (features, hidden) = points.shape[:2], origins.shape[1], w2.shape
    grad_points = points.new_zeros(batch, num_points, 3)
    block, warps = backward_blocks(hidden, features, w2.dtype)
    num_blocks = -(-features // block["BLOCK_D2"])
    grad_winning = points.new_empty(batch, num_frames * features, 16, dtype=torch.bfloat16)
    # without hidden units no kernel runs
    new = points.new_empty if hidden else points.new_zeros
    grad_origins = new(num_blocks, batch, num_frames, 3)
    grad_rotations = new(num_blocks, batch, num_frames, 3, 3)
    grad_w1 = new(num_blocks, batch, hidden, 3)
    grad_b1 = new(num_blocks, batch, num_frames, hidden)
    grad_w2, grad_b2 = new(batch, features, hidden), new(batch, features)
    if batch and features and hidden:
        grad_features = grad_features.contiguous()
        inputs = (grad_features, points, *(t.contiguous() for t in (origins, rotations, w1, b1, w2)))
        launch = _triton.launcher(("frame_pointnet_backward", *map(_triton.signature, inputs)))
        with torch.cuda.device_of(points):
            launch(
                triton_kernels.backward_kernel,
                (batch, num_blocks),
                grad_features,
                winners,
                points,
                *points.stride(),
                *inputs[2:],
                grad_winning,
                grad_origins,
                grad_rotations,
                grad_w1,
                grad_b1,
                grad_w2,
                grad_b2,
                batch,
                num_frames,
                warps=warps,
                D1=hidden,
                D2=features,
                **block,
            )
            if need_points and num_points and num_frames:
                launch(
                    triton_kernels.point_gradient_kernel,
                    (batch, -(-num_points // POINTS)),
                    winners,
                    grad_winning,
                    grad_points,
                    num_frames * features,
                    num_points,
                    warps=POINT_WARPS,
                    stages=3,
                    BLOCK_POINTS=POINTS,
                    BLOCK_ENTRIES=ENTRIES,
                    UPCAST=_triton.INTERPRETED,
                )
    # sums over a leading axis run in a fixed order
    return (
        grad_points,
        grad_origins.sum(0),
        grad_rotations.sum(0),
        grad_w1.sum((0, 1)).to(w1.dtype),
        grad_b1.sum((0, 1)).to(b1.dtype),
        grad_w2.sum(0).to(w2.dtype),
        (grad_b2.sum(0) if hidden else torch.where(winners >= 0, grad_features, 0.0).sum((0, 1))).to(b2.dtype),
    )


_forward, _backward = planned("frame_pointnet")(forward), planned("frame_pointnet backward")(backward)
torch.library.impl(_OP, "CompositeExplicitAutograd", _forward)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _backward)
autograd.register(_OP, _BACKWARD, needs_points=True)
