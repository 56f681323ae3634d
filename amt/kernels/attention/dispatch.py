"""Which back end computes an attention: one that is named, or the one that was fastest for this shape on this card.

A table lists, for one card, what :mod:`amt.kernels.attention.tune` measured: the time of every back end by shape. It is looked
for in the user's cache, then among those that ship (``tables/``). Without one, and for shapes far from all that was measured,
PyTorch chooses: never a kernel that nobody measured there.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amt.kernels._backend import BackendUnavailable
from amt.kernels._torch_private import transforms_active
from amt.kernels.attention import sdpa
from amt.kernels.attention.back_ends import BACK_ENDS

SCHEMA = 1
SHIPPED = Path(__file__).parent / "tables"
NEAR = math.log(1.35)  # tokens of a measured shape: at most this factor away
# Another number of heads changes how full the card is, not the tiles.
NEAR_HEADS = math.log(3.0)


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


def fastest(table: Table, shape: Shape) -> str:
    """The back end of the nearest measured shape; "sdpa" where none is near."""
    found = table.chosen.get(shape)
    if found is None:
        found = "sdpa"
        least = float("inf")
        for measured, name in table.measured:
            if measured[2:] != shape[2:] or not shape.tokens or not shape.heads:
                continue
            tokens = abs(math.log(measured.tokens / shape.tokens))
            heads = abs(math.log(measured.heads / shape.heads))
            if tokens <= NEAR and heads <= NEAR_HEADS and tokens + heads < least:
                least, found = tokens + heads, name
        table.chosen[shape] = found
    return found


class Table:
    """The measured shapes of a card, each with its fastest back end; false where there are none."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.measured = [(_shape(row), min(row["ms"], key=row["ms"].get)) for row in rows if row["ms"]]
        self.chosen: dict[Shape, str] = {}  # what lookups found

    def __len__(self) -> int:
        return len(self.measured)


def _shape(row: dict[str, Any]) -> Shape:
    return Shape(*(row[name] for name in Shape._fields))


def read(path: Path) -> Table:
    """Raises ValueError, with the remedy, for a file that is no table."""
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        table = Table(content["rows"])
        unknown = {name for _, name in table.measured} - set(BACK_ENDS)
        if unknown:
            raise ValueError(f"unknown back end {', '.join(sorted(unknown))}")
        return table
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is no table of attention ({reason}); remove it, or run: python -m amt.kernels tune"
        ) from None


def write(path: Path, card: str, rows: list[dict[str, Any]]) -> None:
    """In one rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(
        json.dumps({"schema": SCHEMA, "card": card, "torch": torch.__version__, "rows": rows}, indent=1) + "\n"
    )
    os.replace(part, path)


def file_name(card: str) -> str:
    """ "NVIDIA H200" -> "nvidia-h200.json"."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json"


def user_folder() -> Path:
    """$XDG_CACHE_HOME/amt/attention, or ~/.cache/amt/attention."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "amt" / "attention"


@functools.cache
def table_for(card: str) -> Table:
    """The user's table of this card, else the one that ships, else an empty one."""
    for folder in (user_folder(), SHIPPED):
        path = folder / file_name(card)
        if path.is_file():
            return read(path)
    return Table([])


@functools.cache
def _table_of(device: torch.device) -> Table:
    return table_for(torch.cuda.get_device_name(device))
