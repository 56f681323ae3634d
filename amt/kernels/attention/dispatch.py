"""Which back end computes an attention: one that is named, or the one that was fastest for this shape on this card.

A table lists, for one card, what :mod:`amt.kernels.attention.tune` measured: the time of every back end by shape. It is looked
for in the user's cache, then among those that ship (``tables/``). Without one, and for shapes far from all that was measured,
PyTorch chooses: never a kernel that nobody measured there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amt.kernels import _table
from amt.kernels._backend import BackendUnavailable
from amt.kernels._table import file_name, write
from amt.kernels._torch_private import transforms_active
from amt.kernels.attention import sdpa
from amt.kernels.attention.back_ends import BACK_ENDS

__all__ = [
    "Shape",
    "Table",
    "attention",
    "by_name",
    "fastest",
    "file_name",
    "read",
    "table_for",
    "user_folder",
    "write",
]
SHIPPED = Path(__file__).parent / "tables"
# Largest factors to a measured shape. Another number of heads changes how full the card is, not the tiles.
NEAR = {"tokens": 1.35, "heads": 3.0}


class Shape(NamedTuple):
    """What decides: tokens N, heads B H, head size D, dtype and whether a backward follows."""

    tokens: int
    heads: int
    size: int
    dtype: str
    backward: bool


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:  # [B, H, N, D], [B, H, M, D] twice
    """By the card's table, on the CPU and without a table by PyTorch's scaled_dot_product_attention."""
    if q.device.type != "cuda" or k.shape[2] != q.shape[2] or transforms_active():
        return sdpa.attention(q, k, v, scale)
    table = _table_of(q.device)
    if not table:
        return sdpa.attention(q, k, v, scale)
    backward = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    shape = Shape(q.shape[2], q.shape[0] * q.shape[1], q.shape[3], str(q.dtype).removeprefix("torch."), backward)
    name = fastest(table, shape)
    if name != "sdpa" and BACK_ENDS[name].reason(q, k) is None:
        return loaded(name)(q, k, v, scale)
    return sdpa.attention(q, k, v, scale)


def by_name(name: str, q: Tensor, k: Tensor) -> Callable:
    """The back end that a caller named.

    Raises:
        ValueError: there is none of this name.
        BackendUnavailable: it cannot run for such tensors; the message has the reason.
    """
    if name not in BACK_ENDS:
        raise ValueError(f"attention: backend must be one of auto, {', '.join(BACK_ENDS)}, got {name!r}")
    reason = BACK_ENDS[name].reason(q, k)
    if reason is not None:
        raise BackendUnavailable(f"attention: backend {name!r} cannot run: {reason}")
    return loaded(name)


@functools.cache
def loaded(name: str) -> Callable:
    return BACK_ENDS[name].load()


class Table(_table.Table):
    """The measured shapes of a card, each with its fastest back end."""

    def __init__(self, rows: list[dict[str, Any]]):
        super().__init__(rows, Shape, NEAR)


def fastest(table: Table, shape: Shape) -> str:
    """The back end of the nearest measured shape; "sdpa" where none is near."""
    return table.fastest(shape, "sdpa")


def read(path: Path) -> Table:
    """Raises ValueError, with the remedy, for a file that is no table."""
    return _table.read(path, "attention", Table, BACK_ENDS, "python -m amt.kernels tune")


def user_folder() -> Path:
    return _table.user_folder("attention")


@functools.cache
def table_for(card: str) -> Table:
    """The user's table of this card, else the one that ships, else an empty one."""
    path = _table.first_of(card, (user_folder(), SHIPPED))
    return Table([]) if path is None else read(path)


@functools.cache
def _table_of(device: torch.device) -> Table:
    return table_for(torch.cuda.get_device_name(device))
