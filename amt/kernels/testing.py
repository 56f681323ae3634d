"""The error rule: the one measure of accuracy that the ops, their tests and their benchmarks share.

    err(kernel, float64) <= 2 x err(PyTorch at the same dtype, float64) + SLACK[dtype]

where err(x, truth) is |x - truth| / |truth| (Frobenius norms), for every output and every gradient. Use it for a kernel of your
own: ``assert_error_rule(kernel(x), reference(x.double()), eager(x))``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels._torch_private import tree_leaves

# a few roundings, so that a PyTorch result that happens to be exact does not fail every other one
SLACK = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def relative_error(x: Tensor, truth: Tensor) -> float:
    """|x - truth| / |truth| (Frobenius), or |x - truth| where the truth is 0; NaN where either holds a NaN."""
    x, truth = x.double(), truth.double()
    difference, size = (x - truth).norm().item(), truth.norm().item()
    return difference / size if size > 0 else difference


def error_rule(x: Tensor | None, truth: Tensor | None, peer: Tensor | None) -> tuple[float, float]:
    """The error of one result and the error that the rule allows it; compare with ``error <= allowed``, which NaN fails.

    What the dtype of ``x`` cannot hold must be infinite, NaN or next to the largest number in ``x`` and counts no further.
    Results of ``peer`` that are not finite do not count for it: PyTorch's float16 overflows on the way where ours need not.

    Args:
        x: the result in question.
        truth: the same in float64.
        peer: PyTorch's result at the dtype of ``x``.

    Returns:
        ``(0, 0)`` where neither ``x`` nor ``truth`` is there (no gradient), an infinite error where one of them is.

    Raises:
        AssertionError: another shape than the truth's or another dtype than the peer's.
    """
    if x is None or truth is None:
        return 0.0 if x is None and truth is None else float("inf"), 0.0
    assert x.shape == truth.shape, f"the shape is {list(x.shape)}, expected {list(truth.shape)}"
    assert peer is None or x.dtype == peer.dtype, f"the dtype is {x.dtype}, expected {peer.dtype}"
    largest = torch.finfo(x.dtype).max
    held = ~(truth.abs() > largest)
    overflowed = x[~held]
    if (overflowed.isfinite() & (overflowed.abs() < largest / 2)).any():
        return float("inf"), 0.0
    allowed = SLACK[x.dtype]
    if peer is not None:
        sound = held & peer.isfinite()
        allowed += 2 * relative_error(peer[sound], truth[sound])
    return relative_error(x[held], truth[held]), allowed


def assert_error_rule(ours, truth, peer) -> None:
    """Holds every tensor of a tree to :func:`error_rule`.

    Args:
        ours: a tensor, or nested tuples, lists and dicts of tensors.
        truth: the same tree in float64.
        peer: the same tree by PyTorch at the dtypes of ``ours``.

    Raises:
        AssertionError: a result with a larger error, another shape or another dtype; the message names it by its position.
    """
    for i, results in enumerate(zip(*map(tree_leaves, (ours, truth, peer)), strict=True)):
        try:
            error, allowed = error_rule(*results)
        except AssertionError as wrong:
            raise AssertionError(f"result {i}: {wrong}") from None
        assert error <= allowed, f"result {i} is off by {error:.3g}, allowed {allowed:.3g}"  # NaN is not <= anything
