"""Shapes and derivatives of ``pose_scores``, one definition for the ops of every implementation.

The scores are linear in the maps. So the backward does not read the maps, and its own derivative is the forward of the gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels._torch_private import AutoDispatchBelowAutograd
from amt.kernels.pose_scores.reference import SURFACE_CHANNELS


def register(forward: str, backward: str) -> None:
    """Registers fakes and derivatives of two ops, named as in ``"amt::pose_scores"``. Once for each name in a process.

    Args:
        forward: (colour, surface, points, normals, rotation, translation, intrinsics, height, width) -> scores.
        backward: (grad_scores, points, ..., intrinsics, height, width, map height, map width) -> (grad_colour, grad_surface).
    """
    forward_op, backward_op = _op(forward), _op(backward)

    def save(ctx, inputs, output) -> None:
        colour, _, *geometry, height, width = inputs
        ctx.save_for_backward(*geometry)
        ctx.sizes = (height, width, *colour.shape[2:])

    def first_order(ctx, grad_scores: Tensor):
        return *backward_op(grad_scores, *ctx.saved_tensors, *ctx.sizes), *[None] * 7

    def save_geometry(ctx, inputs, output) -> None:
        _, *geometry, height, width, _, _ = inputs
        ctx.save_for_backward(*geometry)
        ctx.sizes = (height, width)

    def second_order(ctx, grad_colour: Tensor, grad_surface: Tensor):
        return forward_op(grad_colour, grad_surface, *ctx.saved_tensors, *ctx.sizes), *[None] * 9

    torch.library.register_fake(forward, _fake)
    torch.library.register_fake(backward, _fake_backward)
    torch.library.register_autograd(forward, first_order, setup_context=save)
    torch.library.register_autograd(backward, second_order, setup_context=save_geometry)


def call(op, colour: Tensor, surface: Tensor, *rest) -> Tensor:
    """Runs the forward's op, without its autograd where no gradient is needed."""
    needed = torch.is_grad_enabled() and (colour.requires_grad or surface.requires_grad)
    if needed or torch.compiler.is_compiling():
        return op(colour, surface, *rest)
    # the autograd key of a formula that is registered in Python costs as much as scoring a hundred poses
    with AutoDispatchBelowAutograd():
        return op(colour, surface, *rest)


def _op(name: str):
    namespace, op = name.split("::")
    return getattr(getattr(torch.ops, namespace), op).default


def _fake(colour, surface, points, normals, rotation, translation, intrinsics, height, width) -> Tensor:
    return points.new_empty(rotation.shape[:2])


def _fake_backward(
    grad_scores, points, normals, rotation, translation, intrinsics, height, width, map_height, map_width
) -> tuple[Tensor, Tensor]:
    batch, count = points.shape[:2]
    return points.new_empty(batch, count, map_height, map_width), points.new_empty(
        batch, SURFACE_CHANNELS, map_height, map_width
    )
