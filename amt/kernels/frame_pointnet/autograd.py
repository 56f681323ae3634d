"""Shapes and derivatives of ``frame_pointnet``, one definition for the ops of every implementation.

The forward also returns the winners, int32 [B, F, D2]: the point that gave each feature its maximum, -1 for none. The backward
is an op of its own and has no derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_TENSORS = 7  # points, origins, rotations, w1, b1, w2, b2: what gets a gradient


def register(forward: str, backward: str, *, needs_points: bool = False) -> None:
    """Registers fakes and derivatives of two ops, named as in ``"amt::frame_pointnet"``. Once for each name in a process.

    Args:
        forward: (points, origins, rotations, w1, b1, w2, b2, mask[, need_winners]) -> (features, winners).
        backward: (grad_features, winners, points, origins, rotations, w1, b1, w2, b2[, need_points]) -> seven gradients.
        needs_points: whether ``backward`` takes ``need_points``, False where nobody asks for the gradient of the points.
    """
    namespace, name = backward.split("::")
    backward_op = getattr(getattr(torch.ops, namespace), name).default

    def formula(ctx, grad_features: Tensor, _grad_winners) -> tuple[Tensor | None, ...]:
        needs = (ctx.needs_input_grad[0],) if needs_points else ()
        gradients = backward_op(grad_features, *ctx.saved_tensors, *needs)
        return *gradients, *[None] * (ctx.num_inputs - NUM_TENSORS)

    def refuse(ctx, *gradients):
        raise RuntimeError(
            f"frame_pointnet: {forward} has no second derivatives; "
            'compute inside `with amt.kernels.use("reference")` where they are needed'
        )

    torch.library.register_fake(forward, _fake)
    torch.library.register_fake(backward, _fake_backward)
    torch.library.register_autograd(forward, formula, setup_context=_save)
    torch.library.register_autograd(backward, refuse)


def _fake(points, origins, rotations, w1, b1, w2, b2, mask, need_winners=True) -> tuple[Tensor, Tensor]:
    shape = (*origins.shape[:2], w2.shape[0])
    return points.new_empty(shape), points.new_empty(shape if need_winners else (0,), dtype=torch.int32)


def _fake_backward(grad_features, winners, points, origins, rotations, w1, b1, w2, b2, need_points=True):
    return tuple(t.new_empty(t.shape) for t in (points, origins, rotations, w1, b1, w2, b2))


def _save(ctx, inputs, output) -> None:
    ctx.num_inputs = len(inputs)
    ctx.save_for_backward(output[1], *inputs[:NUM_TENSORS])
    ctx.mark_non_differentiable(output[1])
