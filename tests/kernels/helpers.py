"""What the kernels' tests share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# a few roundings, so that a PyTorch result that happens to be exact does not fail everybody
SLACK = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def relative_error(x: Tensor, truth: Tensor) -> float:
    """|x - truth| / |truth| (Frobenius), or |x - truth| where the truth is 0."""
    x, truth = x.double(), truth.double()
    difference, size = (x - truth).norm().item(), truth.norm().item()
    return difference / size if size > 0 else difference


def assert_error_rule(ours, truth64, pytorch_same_dtype) -> None:
    """err(ours) <= 2 err(PyTorch at the same dtype) + a few roundings, both against float64, for every tensor of the trees.

    Both count where the dtype can hold the truth at all; PyTorch's only where its result is finite (its float16 overflows on the
    way where ours need not).
    """
    for i, (x, truth, peer) in enumerate(
        zip(*map(pytree.tree_leaves, (ours, truth64, pytorch_same_dtype)), strict=True)
    ):
        assert x.shape == truth.shape, f"result {i} has the shape {list(x.shape)}, expected {list(truth.shape)}"
        assert x.dtype == peer.dtype, f"result {i} is {x.dtype}, expected {peer.dtype}"
        holds = ~(truth.abs() > torch.finfo(x.dtype).max)
        sound = holds & peer.isfinite()
        allowed = 2 * relative_error(peer[sound], truth[sound]) + SLACK[peer.dtype]
        error = relative_error(x[holds], truth[holds])
        assert error <= allowed, f"result {i} is off by {error:.3g}, allowed {allowed:.3g}"  # NaN is not <= anything
