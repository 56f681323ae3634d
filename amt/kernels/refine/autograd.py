"""Autograd of ``refine``: one for all back ends. A back end is a pair of custom ops, forward and backward (:class:`Ops`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from amt.kernels._torch_private import AutoDispatchBelowAutograd

# Bits of the backward ops' last argument, as in csrc: which gradients to compute.
NEEDS_COORDINATES, NEEDS_MAPS, NEEDS_WEIGHTS = 1, 2, 4  # joints and intrinsics; maps; w1, b1, w2 and b2


class Ops(NamedTuple):
    """The custom ops of one back end.

    Args:
        name: the back end's name in messages.
        forward: (joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, option) -> steps, or
            (steps, saved) where backward reads more than steps and inputs. ``option`` is the back end's own.
        backward: (grad_steps, *forward's results, joints, ..., detach, needs) -> (grad_joints, grad_intrinsics, grad_maps,
            grad_w1, grad_b1, grad_w2, grad_b2). Gradients that ``needs`` leaves out have the shape [0]; the list of the maps'
            gradients is then empty.
    """

    name: str
    forward: Any
    backward: Any


def is_needed(joints, intrinsics, maps, w1, b1, w2, b2) -> bool:
    """Whether a backward may follow."""
    if not torch.is_grad_enabled():
        return False
    for tensor in (w1, b1, w2, b2, joints, intrinsics, *maps):  # noqa: SIM110 (a generator costs 0.5 µs a call)
        if tensor.requires_grad:
            return True
    return False


def call(ops: Ops, with_graph: bool, joints, intrinsics, maps, *rest) -> Tensor:  # [B, S, J, 3]
    """The steps by ``ops.forward``. In eager mode it goes past the op's own autograd, which PyTorch runs in Python over nested
    lists: that costs several times the kernel where there are few images.
    """
    if torch.compiler.is_compiling():
        return _results(ops.forward(joints, intrinsics, list(maps), *rest))[0]
    if with_graph:
        return _Refine.apply(ops, joints, intrinsics, *rest, *maps)
    with AutoDispatchBelowAutograd():
        return _results(ops.forward(joints, intrinsics, maps, *rest))[0]


def _results(output) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


class _Refine(torch.autograd.Function):
    """The op in eager mode. Without ``setup_context``, for which PyTorch binds the arguments by name in 0.1 ms."""

    @staticmethod
    def forward(ctx, ops, joints, intrinsics, w1, b1, w2, b2, height, width, step_size, detach, option, *maps):
        with AutoDispatchBelowAutograd():
            output = ops.forward(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, detach, option)
        results = _results(output)
        ctx.save_for_backward(*results, joints, intrinsics, w1, b1, w2, b2, *maps)
        ctx.call = (ops, len(results), (height, width, step_size, detach))
        return results[0]

    @staticmethod
    def backward(ctx, grad_steps: Tensor):
        needed = ctx.needs_input_grad
        grad_joints, grad_intrinsics, grad_maps, *grad_weights = _gradients(
            grad_steps, ctx.saved_tensors, *ctx.call, (*needed[1:3], needed[12:], *needed[3:7])
        )
        return None, grad_joints, grad_intrinsics, *grad_weights, None, None, None, None, None, *grad_maps


def _gradients(grad_steps, saved, ops: Ops, num_results: int, options: tuple, needed) -> tuple:
    """Gradients of joints, intrinsics, [maps], w1, b1, w2, b2, or None for those that are not ``needed``."""
    joints, intrinsics, w1, b1, w2, b2, *maps = saved[num_results:]
    needs_joints, needs_intrinsics, needs_maps, *needs_weights = needed
    needs = NEEDS_COORDINATES * (needs_joints or needs_intrinsics)
    needs |= NEEDS_MAPS * any(needs_maps) | NEEDS_WEIGHTS * any(needs_weights)
    arguments = (
        *(grad_steps.contiguous(), *saved[:num_results]),
        *(joints, intrinsics, maps, w1, b1, w2, b2, *options, needs),
    )
    grad_joints, grad_intrinsics, grad_maps, *grad_weights = _below_autograd(ops.backward, arguments)
    return (
        grad_joints if needs_joints else None,
        grad_intrinsics if needs_intrinsics else None,
        [g if wanted else None for g, wanted in zip(grad_maps, needs_maps)] if grad_maps else [None] * len(maps),
        *(g if wanted else None for g, wanted in zip(grad_weights, needs_weights)),
    )


def _below_autograd(op, arguments: tuple):
    """Calls ``op`` without its own autograd, which costs more than a launch, unless a graph of the backward is asked for."""
    if torch.is_grad_enabled():
        return op(*arguments)
    with AutoDispatchBelowAutograd():
        return op(*arguments)


def register(ops: Ops) -> None:
    """Registers with torch.library what torch.compile and calls of the ops themselves use: autograd of the forward op, the fake
    of the backward op, and one message each for double backward and torch.vmap, which neither op has.
    """

    def setup_context(ctx, inputs, output) -> None:
        joints, intrinsics, maps, w1, b1, w2, b2, *options, option = inputs
        results = _results(output)
        for saved in results[1:]:
            ctx.mark_non_differentiable(saved)
        ctx.has_saved = option is not False
        if ctx.has_saved:
            ctx.save_for_backward(*results, joints, intrinsics, w1, b1, w2, b2, *maps)
        ctx.call = (ops, len(results), tuple(options))

    def backward(ctx, grad_steps: Tensor, *_):
        if not ctx.has_saved:
            raise RuntimeError(
                f"{ops.forward._schema.name} saved nothing for its backward: its last argument was False"
            )
        return *_gradients(grad_steps, ctx.saved_tensors, *ctx.call, ctx.needs_input_grad[:7]), *[None] * 5

    def no_double_backward(ctx, *gradients):
        raise RuntimeError(
            f"amt.kernels.refine has no double backward in {ops.name}: "
            'run it inside `with amt.kernels.use("reference")`, which is differentiable any number of times'
        )

    def no_vmap(info, in_dims, *arguments):
        raise RuntimeError("amt.kernels.refine is batched over images already and does not run under torch.vmap")

    forward_name, backward_name = ops.forward._schema.name, ops.backward._schema.name
    torch.library.register_fake(backward_name, _fake_backward)
    torch.library.register_autograd(forward_name, backward, setup_context=setup_context)
    torch.library.register_autograd(backward_name, no_double_backward)
    torch.library.register_vmap(forward_name, no_vmap)
    torch.library.register_vmap(backward_name, no_vmap)


def _fake_backward(grad_steps, *arguments):
    joints, intrinsics, maps, w1, b1, w2, b2, _, _, _, _, needs = arguments[-12:]

    def output(bit: int, like: Tensor) -> Tensor:
        return like.new_empty(like.shape if needs & bit else (0,))

    return (
        output(NEEDS_COORDINATES, joints),
        output(NEEDS_COORDINATES, intrinsics),
        [output(NEEDS_MAPS, m) for m in maps] if needs & NEEDS_MAPS else [],
        *(output(NEEDS_WEIGHTS, w) for w in (w1, b1, w2, b2)),
    )
