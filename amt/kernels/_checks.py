"""Argument checks of the public ops: each failure names the argument, what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def tensor(
    op: str, name: str, value, shape: tuple, dtypes: tuple[torch.dtype, ...], like: Tensor | None = None
) -> None:
    """Checks one tensor argument.

    Args:
        shape: one entry a dimension: an int that must match, or a str that names a free size (for the message).
        dtypes: the dtypes taken.
        like: a tensor whose device ``value`` must share.

    Raises:
        TypeError: not a tensor, a sparse one, or a wrong dtype.
        ValueError: a wrong number of dimensions or size, or another device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {value.layout}; call to_dense()")
    if value.dtype not in dtypes:
        raise TypeError(f"{op}: {name} must be {' or '.join(str(d) for d in dtypes)}, got {value.dtype}")
    try:
        found = value.shape
    except RuntimeError:  # a nested tensor has none; asking first would cost every call
        message = f"{op}: {name} must be a dense tensor, got a nested one; call torch.nested.to_padded_tensor()"
        raise TypeError(message) from None
    if not _fits(found, shape):
        expected = ", ".join(str(s) for s in shape)
        raise ValueError(f"{op}: {name} must have the shape [{expected}], got {list(value.shape)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{op}: {name} must be on {like.device} as the first argument is, got {value.device}")


def image_size(op: str, value) -> None:
    """Checks a (height, width) in whole pixels: numbers of any kind, NumPy's and symbolic ones too.

    Raises:
        TypeError: not a pair of whole numbers.
        ValueError: a size that is not positive.
    """
    is_pair = hasattr(type(value), "__len__") and len(value) == 2
    if not is_pair or not all(hasattr(type(size), "__index__") for size in value):
        raise TypeError(f"{op}: image_size must be (height, width) in whole pixels, got {value}")
    if not all(size > 0 for size in value):
        raise ValueError(f"{op}: image_size must be a positive (height, width), got {value}")


def _fits(found: torch.Size, shape: tuple) -> bool:
    if len(found) != len(shape):
        return False
    for expected, size in zip(shape, found):  # noqa: SIM110 (a generator costs a microsecond, as much as a small op's kernel)
        if isinstance(expected, int) and expected != size:
            return False
    return True
