"""What is done to gradients before they are clipped as a whole and applied. No call here waits for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

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
            weight.grad -= weight.grad.mean(dim=unit_dims(weight), keepdim=True)


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Shortens a unit's gradient to at most ``ratio`` times the norm of its weights.

    Adaptive gradient clipping of Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization" (2021).
    A unit is a row of a matrix or a kernel of a convolution; a vector is one unit. A gradient that is not finite stays so.

    Args:
        parameters: of any shape; those without a gradient are left out.
        ratio: above 0; the paper has 0.01.
    """
    for parameter in parameters:
        grad = parameter.grad
        if grad is None:
            continue
        dims = unit_dims(parameter) if parameter.dim() else None
        most = torch.linalg.vector_norm(parameter, dim=dims, keepdim=True).clamp(min=LEAST_NORM) * ratio
        norm = torch.linalg.vector_norm(grad, dim=dims, keepdim=True)
        grad *= torch.where(norm > most, most / norm, 1.0)


@torch.no_grad()
def group_norms(groups: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, Tensor]:
    """The norm of the gradient of each group, on the device; groups without a gradient are left out."""
    grads = {name: [p.grad for p in parameters if p.grad is not None] for name, parameters in groups.items()}
    return {name: torch.nn.utils.get_total_norm(each) for name, each in grads.items() if each}
