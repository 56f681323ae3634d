"""Small calls of every planned op, for plans_on_stand_in.py and for a card: name -> (op, device -> call)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _made(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.rand(shape, generator=generator) + 0.5).to(dtype).to(device)


def _heads(device: str) -> tuple[Tensor, ...]:
    packed = _made(device, 2, 73, 3, 3, 64, dtype=torch.bfloat16)
    return tuple(packed[:, :, i].transpose(1, 2) for i in range(3))


def _attention(device: str) -> Callable:
    from amt.kernels.attention import triton

    q, k, v = _heads(device)
    return lambda: triton._forward(q, k, v, 0.125, True)


def _attention_backward(device: str) -> Callable:
    from amt.kernels.attention import triton

    q, k, v = _heads(device)
    out = triton.empty(2, 3, 73, q).copy_(q)
    log_totals = _made(device, 2, 3, 73)
    return lambda: triton._backward(out, q, k, v, out, log_totals, 0.125)


def _pointnet(device: str) -> tuple[Tensor, ...]:
    shapes = ((3, 70, 3), (3, 5, 3), (3, 5, 3, 3), (24, 3), (5, 24), (40, 24), (40,))
    return tuple(_made(device, *shape) for shape in shapes)


def _frame_pointnet(device: str) -> Callable:
    from amt.kernels.frame_pointnet import triton

    inputs, mask = _pointnet(device), _made(device, 3, 70, dtype=torch.bool)
    return lambda: triton._forward(*inputs, mask, True)


def _frame_pointnet_backward(device: str) -> Callable:
    from amt.kernels.frame_pointnet import triton

    inputs, grad = _pointnet(device), _made(device, 3, 5, 40)
    winners = torch.zeros(3, 5, 40, dtype=torch.int32, device=device)
    return lambda: triton._backward(grad, winners, *inputs, True)


def _poses(device: str) -> tuple[Tensor, ...]:
    return tuple(_made(device, 2, *shape) for shape in ((9, 3), (9, 3), (40, 3, 3), (40, 3), (3, 3)))


def _pose_scores(device: str) -> Callable:
    from amt.kernels.pose_scores import triton

    maps, geometry = (_made(device, 2, 9, 5, 6), _made(device, 2, 4, 5, 6)), _poses(device)
    return lambda: triton._forward(*maps, *geometry, 112, 96)


def _pose_scores_backward(device: str) -> Callable:
    from amt.kernels.pose_scores import triton

    grad, geometry = _made(device, 2, 40), _poses(device)
    return lambda: triton._backward(grad, *geometry, 112, 96, 5, 6)


def _refine(device: str, steps: int = 2) -> tuple:
    shapes = ((3, 5, 3), (3, 3, 3))
    joints, intrinsics = (_made(device, *shape) for shape in shapes)
    maps = [_made(device, 3, 8, 6, 32, dtype=torch.bfloat16), _made(device, 3, 4, 4, 64, dtype=torch.bfloat16)]
    shapes = ((steps, 32, 99), (steps, 5, 32), (steps, 3, 32), (steps, 3))
    weights = [_made(device, *shape, dtype=torch.bfloat16) for shape in shapes]
    return joints, intrinsics, maps, *weights, 224, 224, 1.0


def _refine_forward(form: str) -> Callable[[str], Callable]:
    def on(device: str) -> Callable:
        from amt.kernels.refine import triton

        problem = _refine(device)
        return lambda: triton._planned_forward(*problem, True, form)

    return on


def _refine_backward(detach: bool) -> Callable[[str], Callable]:
    def on(device: str) -> Callable:
        from amt.kernels.refine import triton

        problem, steps = _refine(device), _made(device, 3, 2, 5, 3)
        grad = _made(device, 3, 2, 5, 3)
        return lambda: triton._planned_backward(grad, steps, *problem, detach, 7)

    return on


def _hand_frames(device: str) -> Callable:
    from amt.kernels.hand_frames import triton

    joints = _made(device, 48, 21, 3)
    return lambda: triton._forward(joints)


def _hand_frames_backward(device: str) -> Callable:
    from amt.kernels.hand_frames import triton

    grads = _made(device, 48, 22, 3), _made(device, 48, 22, 3, 3)
    joints = _made(device, 48, 21, 3)
    return lambda: triton._backward(*grads, joints)


def _rows(device: str) -> tuple[Tensor, ...]:
    """A residual stream, a branch, and LayerScale, which is the norm's weight and bias as well."""
    return _made(device, 3, 9, 192), _made(device, 3, 9, 192, dtype=torch.bfloat16), _made(device, 192)


def _add_norm(branch: bool, fp8: bool, save: bool) -> Callable[[str], Callable]:
    def on(device: str) -> Callable:
        from amt.kernels.block import triton

        x, added, channel = _rows(device)
        given = (added, channel) if branch else (None, None)
        return lambda: triton._norm_forward(x, *given, channel, channel, 1e-6, torch.bfloat16, not fp8, fp8, save)

    return on


def _add_norm_backward(total: bool) -> Callable[[str], Callable]:
    def on(device: str) -> Callable:
        from amt.kernels.block import triton

        x, added, channel = _rows(device)
        row = _made(device, 27)
        types = (torch.float32, torch.bfloat16)
        return lambda: triton._norm_backward(
            x if total else None,
            added,
            x,
            added if total else None,
            channel if total else None,
            channel,
            row,
            row,
            *types,
        )

    return on


def _linear_gelu(device: str) -> Callable:
    from amt.kernels.block import triton

    x, weight, bias = (_made(device, *shape, dtype=torch.bfloat16) for shape in ((48, 64), (96, 64), (96,)))
    return lambda: triton._linear_forward(x, weight, bias, True)


def _gelu_quantize(device: str) -> Callable:
    from amt.kernels.block import triton

    product, bias = (_made(device, *shape, dtype=torch.bfloat16) for shape in ((3, 9, 384), (384,)))
    return lambda: triton._quantize_forward(product, bias, False)


CASES: dict[str, tuple[str, Callable[[str], Callable]]] = {
    "attention": ("attention", _attention),
    "attention backward": ("attention", _attention_backward),
    "frame_pointnet": ("frame_pointnet", _frame_pointnet),
    "frame_pointnet backward": ("frame_pointnet", _frame_pointnet_backward),
    "hand_frames": ("hand_frames", _hand_frames),
    "hand_frames backward": ("hand_frames", _hand_frames_backward),
    "pose_scores": ("pose_scores", _pose_scores),
    "pose_scores backward": ("pose_scores", _pose_scores_backward),
    "add_norm": ("block", _add_norm(True, False, True)),
    "add_norm in e4m3, without a branch": ("block", _add_norm(False, True, False)),
    "add_norm backward": ("block", _add_norm_backward(True)),
    "add_norm backward, without a branch": ("block", _add_norm_backward(False)),
    "linear_gelu": ("block", _linear_gelu),
    "gelu_quantize": ("block", _gelu_quantize),
    "refine, two kernels": ("refine", _refine_forward("two_kernel")),
    "refine, one kernel": ("refine", _refine_forward("single")),
    "refine backward": ("refine", _refine_backward(True)),
    "refine backward, steps not detached": ("refine", _refine_backward(False)),
}
