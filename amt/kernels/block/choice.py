"""Whether a block is computed by its own modules or fused, and which FP8 product pays: by a card's table.

A table (see :mod:`amt.kernels._table`) is looked for in the user's cache, then among those that ship (``tables/``). Without one,
and for shapes far from all that was measured, a block is computed by its own modules, and an FP8 layer multiplies in FP8: whoever
asks for FP8 gets it until a measurement says that 16 bits are faster. CUTLASS's products need a measurement that says so.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from amt.kernels import _table

# The ways to compute a block. "fused": residual, LayerScale and LayerNorm in one kernel, one product for Q, K and V, GELU by
# itself. "fused_gelu": GELU in the epilogue of Triton's product. "fused_tanh": in that of cuBLASLt, in its tanh form, which has
# no derivative there.
FORMS = ("stock", "fused", "fused_gelu", "fused_tanh")
# A form that is taken by name alone: "fused" with FP8 products by CUTLASS, with bias, GELU and e4m3 in their epilogues.
CUTLASS = "fused_cutlass"
PRODUCTS = ("bf16", "fp8", "cutlass")  # of a linear layer
SHIPPED = Path(__file__).parent / "tables"
SUBJECT, TUNE = "block", "python -m amt.model.tune_blocks"


class Shape(NamedTuple):
    """What decides on a block (``units`` 0) or on a linear layer: rows of all images, channels, result's channels."""

    rows: int
    channels: int
    units: int
    dtype: str
    backward: bool


class Table(_table.Table):
    """The measured shapes of a card, each with its fastest form or product."""

    def __init__(self, rows: list[dict]):
        super().__init__(rows, Shape, {"rows": 2.0})


def form(x: Tensor, dtype: torch.dtype) -> str:
    """The fastest form of a block for a residual stream [..., D] whose products are in ``dtype``."""
    return _fastest(x.device, x.shape, 0, dtype, "stock")


def product(device: torch.device, shape: torch.Size, units: int, dtype: torch.dtype) -> str:
    """Which of :data:`PRODUCTS` a linear layer takes where FP8 is asked for: from ``shape`` [..., K] to ``units`` channels."""
    return _fastest(device, shape, units, dtype, "fp8")


def _fastest(device: torch.device, shape: torch.Size, units: int, dtype: torch.dtype, default: str) -> str:
    if device.type != "cuda":
        return default
    table = table_of(device)
    if not table:
        return default
    rows, channels = shape[:-1].numel(), shape[-1]
    backward = torch.is_grad_enabled()
    return table.fastest(Shape(rows, channels, units, str(dtype).removeprefix("torch."), backward), default)


def read(path: Path) -> Table:
    """Raises ValueError, with the remedy, for a file that is no table."""
    return _table.read(path, "blocks", Table, (*FORMS, *PRODUCTS), TUNE)


def user_folder() -> Path:
    return _table.user_folder(SUBJECT)


@functools.cache
def table_for(card: str) -> Table:
    """The user's table of this card, else the one that ships, else an empty one."""
    path = _table.first_of(card, (user_folder(), SHIPPED))
    return Table([]) if path is None else read(path)


@functools.cache
def table_of(device: torch.device) -> Table:
    return table_for(torch.cuda.get_device_name(device))
