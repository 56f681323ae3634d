"""``attention`` in Triton: launches and custom ops. float16 and bfloat16, heads of 64 and 128 channels, sums in float32.

Any number of rows and keys, any strides. The result lies in memory as [B, N, H, D], so that joining the heads moves nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from amt.kernels import _torch_private, _triton
from amt.kernels._plans import planned
from amt.kernels.attention import reference
from amt.kernels.attention.triton_kernels.backward import backward_kernel
from amt.kernels.attention.triton_kernels.forward import forward_kernel

HEAD_SIZES = (64, 128)
DTYPES = (torch.float16, torch.bfloat16)
LOG2_E = 1.4426950408889634
SMALLEST = 16  # rows or keys that the tensor cores take
ROWS, WARPS, STAGES = 128, 8, 2


class Tiles(NamedTuple):
    """Rows and keys of a tile: of the backward, and the keys of the forward, whose tiles have 128 rows."""

    keys: int
    backward_rows: int
    backward_keys: int


# By head size. Hopper's products read operands from shared memory; on older cards they lie in registers, and these would spill.
TILES = {64: Tiles(64, 64, 128), 128: Tiles(64, 64, 64)}
OLDER_TILES = {64: Tiles(64, 64, 64), 128: Tiles(32, 16, 64)}

_OP, _BACKWARD = "amt::attention_triton", "amt::attention_triton_backward"
torch.library.define(_OP, "(Tensor q, Tensor k, Tensor v, float scale, bool save) -> (Tensor, Tensor)")
torch.library.define(
    _BACKWARD,
    "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_totals, float scale) -> (Tensor, Tensor, Tensor)",
)


def reason(q: Tensor, k: Tensor) -> str | None:
    """Why the kernels cannot run for these tensors; ``None`` where they can."""
    if q.shape[3] not in HEAD_SIZES:
        return f"it takes a head size D of 64 or 128, got {q.shape[3]}"
    if q.dtype not in DTYPES:
        return f"it computes in float16 or bfloat16, got {q.dtype}"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:  # [B, H, N, D], [B, H, M, D] twice
    """As the reference.

    Raises:
        ValueError: another head size or dtype.
    """
    unable = reason(q, k)
    if unable is not None:
        raise ValueError(f'attention: the Triton kernel cannot run: {unable}; use amt.kernels.use("auto")')
    if k.shape[2] == 1:  # q and k have no gradient; the kernel would leave roundings there
        return reference.attention(q, k, v, scale)
    needed = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if torch.compiler.is_compiling() or needed:
        return torch.ops.amt.attention_triton.default(q, k, v, scale, needed)[0]
    # autograd registered in Python costs several launches on the host
    with _torch_private.AutoDispatchBelowAutograd():
        return torch.ops.amt.attention_triton.default(q, k, v, scale, False)[0]


def tiles_for(size: int, major: int) -> Tiles:
    """Of heads of ``size``, on cards of compute capability ``major``.x."""
    return (TILES if major >= 9 else OLDER_TILES)[size]


def blocks(rows: int, keys: int, size: int, major: int = 9) -> dict[str, int]:
    """The forward's tiles, from the shape and the architecture alone."""
    wide = tiles_for(size, major).keys
    return {"ROWS": ROWS, "TAIL_ROWS": tail(rows, ROWS), "KEYS": wide, "TAIL_KEYS": tail(keys, wide), "SIZE": size}


def registers(tiles: dict[str, int], major: int = 9) -> int | None:
    """The forward's limit a thread: with 128, two programs share a multiprocessor, and one computes its softmax while the other
    multiplies. Heads of 128, a masked tile of 64 keys, and cards before Hopper would spill under it.
    """
    return 128 if major >= 9 and tiles["SIZE"] == 64 and tiles["TAIL_KEYS"] < 64 else None


def backward_blocks(rows: int, keys: int, size: int, major: int = 9) -> dict[str, int]:
    """The backward's tiles. Tails larger than these limits are taken in two: one tile would spill."""
    tiles = tiles_for(size, major)
    return {
        "ROWS": tiles.backward_rows,
        "TAIL_ROWS": min(32, tail(rows, tiles.backward_rows)),
        "KEYS": tiles.backward_keys,
        "TAIL_KEYS": min(32 if size == 128 else 64, tail(keys, tiles.backward_keys)),
        "SIZE": size,
    }


def tail(count: int, tile: int) -> int:
    """Size of the tile for what whole tiles leave over, 0 where nothing is left."""
    left = count % tile
    return max(SMALLEST, triton.next_power_of_2(left)) if left else 0


def splits(heads: int, rows: int, multiprocessors: int) -> int:
    """Programs that share a head's whole row tiles: one where there is a head for each multiprocessor."""
    tiles = rows // ROWS
    return min(tiles, 1 if heads >= multiprocessors else -(-2 * multiprocessors // heads))


def readable(tensor: Tensor) -> Tensor:
    """Channels side by side, and a head's rows within reach of 32-bit offsets; a copy where that is not so."""
    near = (tensor.shape[2] + ROWS) * tensor.stride(2) < 2**31
    return tensor if tensor.stride(3) == 1 and near else tensor.contiguous()


def empty(batch: int, heads: int, rows: int, like: Tensor) -> Tensor:
    """[B, H, N, D] that lies in memory as [B, N, H, D]."""
    return like.new_empty(batch, rows, heads, like.shape[3]).transpose(1, 2)


def _row_strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(t.stride(2) for t in tensors)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, save: bool) -> tuple[Tensor, Tensor]:
    (batch, heads, rows, size), keys = q.shape, k.shape[2]
    out = empty(batch, heads, rows, q)
    log_totals = q.new_empty((batch, heads, rows) if save else (0,), dtype=torch.float32)
    if out.numel() == 0 or keys == 0:
        return out.zero_(), log_totals.zero_()
    q, k, v = readable(q), readable(k), readable(v)
    card = _triton.card(q.device)
    tiles = blocks(rows, keys, size, card.major)
    programs = splits(batch * heads, rows, card.multiprocessors)
    inputs = (q, k, v)
    launch = _triton.launcher(("attention", save, scale > 0, *map(_triton.signature, inputs)))
    with torch.cuda.device_of(q):
        launch(
            forward_kernel,
            (batch * heads, programs + (tiles["TAIL_ROWS"] > 0)),
            *inputs,
            out,
            log_totals if save else out,
            *(t.stride()[:2] for t in (*inputs, out)),
            heads,
            rows,
            keys,
            scale * LOG2_E,
            programs,
            warps=WARPS,
            stages=STAGES,
            registers=registers(tiles, card.major),
            ROW_STRIDES=_row_strides(*inputs, out),
            **tiles,
            POSITIVE=scale > 0,
            SAVE=save,
            UPCAST=_triton.INTERPRETED,
        )
    return out, log_totals


def backward(grad_out, q, k, v, out, log_totals, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    (batch, heads, rows, size), keys = q.shape, k.shape[2]
    grad_q = empty(batch, heads, rows, q)
    grad_k, grad_v = empty(batch, heads, keys, k), empty(batch, heads, keys, v)
    if min(batch, heads, rows, keys) == 0:
        return grad_q.zero_(), grad_k.zero_(), grad_v.zero_()
    tensors = (*map(readable, (q, k, v, out, grad_out)), grad_q, grad_k, grad_v)
    tiles = backward_blocks(rows, keys, size, _triton.card(q.device).major)
    deltas = torch.empty_like(log_totals)
    padded = -(-rows // tiles["ROWS"]) * tiles["ROWS"]
    sums = log_totals.new_empty(batch * heads, padded, size)
    launch = _triton.launcher(("attention_backward", *map(_triton.signature, tensors)))
    with torch.cuda.device_of(q):
        launch(
            backward_kernel,
            (batch * heads,),
            *tensors,
            log_totals,
            deltas,
            sums,
            *(t.stride()[:2] for t in tensors),
            heads,
            rows,
            keys,
            scale,
            warps=WARPS,
            ROW_STRIDES=_row_strides(*tensors),
            **tiles,
            UPCAST=_triton.INTERPRETED,
        )
    return grad_q, grad_k, grad_v


_forward, _backward = planned("attention")(forward), planned("attention backward")(backward)
torch.library.impl(_OP, "CompositeExplicitAutograd", _forward)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _backward)


@torch.library.register_fake(_OP)
def _(q, k, v, scale, save):
    batch, heads, rows, _ = q.shape
    return empty(batch, heads, rows, q), q.new_empty((batch, heads, rows) if save else (0,), dtype=torch.float32)


@torch.library.register_fake(_BACKWARD)
def _(grad_out, q, k, v, out, log_totals, scale):
    batch, heads, rows, _ = q.shape
    return empty(batch, heads, rows, q), *(empty(batch, heads, k.shape[2], t) for t in (k, v))


def _save(ctx, inputs, output) -> None:
    q, k, v, ctx.scale, ctx.saved = inputs
    ctx.mark_non_differentiable(output[1])
    if ctx.saved:
        ctx.save_for_backward(q, k, v, *output)


def _derivative(ctx, grad_out: Tensor, _grad_log_totals):
    if not ctx.saved:
        raise RuntimeError(f"{_OP} saved nothing for its backward: its last argument was False")
    q, k, v, out, log_totals = ctx.saved_tensors
    op = torch.ops.amt.attention_triton_backward.default
    if torch.is_grad_enabled():
        gradients = op(grad_out, q, k, v, out, log_totals, ctx.scale)
    else:
        with _torch_private.AutoDispatchBelowAutograd():
            gradients = op(grad_out, q, k, v, out, log_totals, ctx.scale)
    return *gradients, None, None


def _refuse(ctx, *gradients):
    raise RuntimeError(
        "amt.kernels.attention has no double backward in Triton: "
        'run it inside `with amt.kernels.use("reference")`, which is differentiable any number of times'
    )


torch.library.register_autograd(_OP, _derivative, setup_context=_save)
torch.library.register_autograd(_BACKWARD, _refuse)
