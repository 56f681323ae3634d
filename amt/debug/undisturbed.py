"""A look at a model that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A block after which everything is as before: buffers, gradients, mode of every module, random numbers.

    Inside it no parameter has a gradient. Hooks are their setters' to remove; parameters nobody may change.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    grads = [(p, p.grad) for p in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
        for p, _ in grads:
            p.grad = None
        try:
            yield
        finally:
            for p, grad in grads:
                p.grad = grad
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for module, training in modes:
                module.training = training
