"""What is done to gradients before they are clipped as a whole and applied. No call here waits for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from amt.kernels._torch_private import foreach_mul_
from amt.train.ranks import summed
from amt.train.sharding import is_sharded, local

LEAST_NORM = 1e-3  # of a unit's weights in adaptive clipping: weights that start at zero can still move (Brock et al.)


def unit_dims(weight: Tensor) -> tuple[int, ...]:
    """The dimensions over which one output unit's inputs lie: all but the first of a convolution's kernel, else the last."""
    return (1, 2, 3) if weight.dim() == 4 else (-1,)


@torch.no_grad()
def centralize(weights: Iterable[nn.Parameter]) -> None:
    """Takes from the gradient of every output unit its mean (Yong et al., "Gradient Centralization", 2020).

    Args:
        weights: matrices and kernels; those without a gradient are left out.
    """
    for weight in weights:
        if weight.grad is not None:
            grad = local(weight.grad)  # whole units: it is by them that FSDP divides a weight
            grad -= grad.mean(dim=unit_dims(weight), keepdim=True)


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Shortens a unit's gradient to at most ``ratio`` times the norm of its weights.

    Adaptive gradient clipping of Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization" (2021).
    A unit is a row of a matrix or a kernel of a convolution; a vector is one unit. A gradient that is not finite stays so.

    Args:
        parameters: of any shape; those without a gradient are left out.
        ratio: above 0; the paper has 0.01.
    """
    parameters = [p for p in parameters if p.grad is not None]
    split = _split_norms([p for p in parameters if p.dim() == 1 and is_sharded(p)])
    for p in parameters:
        grad, dims = local(p.grad), unit_dims(p) if p.dim() else None
        weights, norm = split.get(p) or (
            torch.linalg.vector_norm(local(t), dim=dims, keepdim=True) for t in (p, p.grad)
        )
        most = weights.clamp(min=LEAST_NORM) * ratio
        grad *= torch.where(norm > most, most / norm, 1.0)


def _split_norms(vectors: list[nn.Parameter]) -> dict[nn.Parameter, tuple[Tensor, Tensor]]:
    """The norms of vectors and of their gradients, where each rank has a part of one."""
    if not vectors:
        return {}
    squares = [torch.stack([local(t).square().sum() for t in (p, p.grad)]) for p in vectors]
    return {p: tuple(square.sqrt()) for p, square in zip(vectors, summed(*squares))}


@torch.no_grad()
def group_norms(groups: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, Tensor]:
    """The norm of the gradient of each group, on the device; groups without a gradient are left out."""
    grads = {name: [p.grad for p in parameters if p.grad is not None] for name, parameters in groups.items()}
    return {name: _total_norm(each) for name, each in grads.items() if each}


@torch.no_grad()
def clip_norm(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Shortens the whole gradient to a norm of at most ``most``. Returns the norm that it had, a number on the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = _total_norm(grads)
    foreach_mul_([local(grad) for grad in grads], (most / (norm + 1e-6)).clamp(max=1.0))  # as PyTorch's clip_grad_norm_
    return norm


def _total_norm(grads: list[Tensor]) -> Tensor:
    sharded = [local(grad) for grad in grads if is_sharded(grad)]
    norm = torch.nn.utils.get_total_norm([grad for grad in grads if not is_sharded(grad)])
    if not sharded:
        return norm
    (square,) = summed(torch.nn.utils.get_total_norm(sharded).square())
    return (square + norm.square()).sqrt()
