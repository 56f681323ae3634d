"""Small constant tensors, uploaded once a device.

``x.new_tensor((-1, 1, 1))`` copies from the host at every call. On a CUDA card the host then waits for all work before it, and
the call cannot be captured into a CUDA graph. So does an index that is a list.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn


def constant(values: tuple, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of these numbers on the device of ``like``. Never write into it: the next caller gets the same one.

    Args:
        values: a number's tuple, or tuples of them.
        like: gives the device, and the dtype where ``dtype`` is None.
    """
    dtype = like.dtype if dtype is None else dtype
    if torch.compiler.is_compiling() or type(like) not in (
        Tensor,
        nn.Parameter,
    ):  # of another mode: nothing of it may stay
        return torch.tensor(values, dtype=dtype, device=like.device)
    return _uploaded(values, dtype, like.device)


def places(indices: tuple[int, ...], like: Tensor) -> Tensor:
    """:func:`constant` int64 indices into ``like``: ``x[:, places((3, 1), x)]``."""
    return constant(indices, like, torch.int64)


@lru_cache(maxsize=512)
def _uploaded(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training takes the same tensor, which a gradient may have to be saved for
        return torch.tensor(values, dtype=dtype, device=device)
