"""Tensors of which each rank holds some rows, as FSDP leaves parameters, gradients and moments; plain tensors pass unchanged.

What is stored is whole, so that any number of ranks goes on from it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from amt.train import ranks

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before PyTorch 2.13


def is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "to_local")  # a DTensor; its module takes a second to import


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This rank's rows, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tree: Any) -> Any:
    """A tree of dicts and lists with all rows of its tensors. Every rank must call it; the first one keeps what it gathers, on
    the host, and the others have None there."""
    if isinstance(tree, dict):
        return {name: whole(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(whole(value) for value in tree)
    if not is_sharded(tree):
        return tree
    full = tree.full_tensor()
    return full.cpu() if ranks.first() else None


def rows_of(full: Any, like: Tensor) -> Any:
    """This rank's rows of a whole tensor as a tensor like ``like``; what has another shape stays as it is."""
    if not is_sharded(like) or not isinstance(full, Tensor) or full.shape != like.shape:
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gathered_rows(shards: Tensor, rows: int) -> Tensor:
    """Whole matrices [N, rows, m] of this rank's rows [N, r, m] of each, in one message."""
    per_rank = -(-rows // ranks.size())  # as FSDP divides them: the last ranks may have fewer, or none
    padded = shards.new_zeros(len(shards), per_rank, shards.shape[2])
    padded[:, : shards.shape[1]] = shards
    everyone = shards.new_empty(ranks.size() * len(shards), *padded.shape[1:])
    _all_gather(everyone, padded)
    return everyone.unflatten(0, (ranks.size(), len(shards))).transpose(0, 1).flatten(1, 2)[:, :rows]


def own_rows(matrices: Tensor) -> Tensor:
    """The inverse of :func:`gathered_rows`."""
    per_rank = -(-matrices.shape[1] // ranks.size())
    return matrices[:, ranks.number() * per_rank : (ranks.number() + 1) * per_rank]
