"""``frame_pointnet`` in C++ (csrc/frame_pointnet*): its fake, its gradients, and the entry that the dispatch takes."""

from __future__ import annotations

import torch
from torch import Tensor

_op = torch.ops.amt.frame_pointnet.default


def frame_pointnet(points, origins, rotations, w1, b1, w2, b2, mask=None) -> Tensor:
    # Weights of two bytes are exact in float32, which these CPUs multiply twice as fast as bf16 pairs (AMX aside).
    w1, b1, w2, b2 = (weight.to(points.dtype) for weight in (w1, b1, w2, b2))
    return _op(points, origins, rotations, w1, b1, w2, b2, mask)[0]


@torch.library.register_fake("amt::frame_pointnet")
def _(points, origins, rotations, w1, b1, w2, b2, mask) -> tuple[Tensor, Tensor]:
    shape = (*origins.shape[:2], w2.shape[0])
    return points.new_empty(shape), points.new_empty(shape, dtype=torch.int32)


@torch.library.register_fake("amt::frame_pointnet_backward")
def _(grad_features, winners, *inputs) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in inputs)


def _save(ctx, inputs, output) -> None:
    *tensors, _mask = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_features: Tensor, _grad_winners) -> tuple[Tensor | None, ...]:
    return *torch.ops.amt.frame_pointnet_backward(grad_features, *ctx.saved_tensors), None


def _no_double_backward(ctx, *gradients):
    raise RuntimeError(
        "frame_pointnet: the native kernel has no second derivatives; "
        'compute inside `with amt.kernels.use("reference")` where they are needed'
    )


torch.library.register_autograd("amt::frame_pointnet", _backward, setup_context=_save)
torch.library.register_autograd("amt::frame_pointnet_backward", _no_double_backward)
