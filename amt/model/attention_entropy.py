"""The entropy of attention, layer by layer: where it falls to 0, each query looks at one token, and training breaks down soon.

Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse" (2023). The weights are computed again,
exactly and in float32: fused attention never has them.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amt.hand.batch import Inputs
from amt.kernels._backend import observed
from amt.kernels.attention.entropy import entropy


@contextmanager
def recorded_entropy(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """A block in which every attention of ``model`` is looked at. A compiled model runs uncompiled there.

    Yields:
        A dictionary that each forward pass fills: by the name of the layer a list of [B, H, N] tensors, nats, one for each call
        of ``attention``, on the device. A layer is the module that called it; for a block that attends once, the block.
    """
    running: list[str] = []  # modules that have begun and not ended
    found: dict[str, list[Tensor]] = defaultdict(list)

    def wrap(op: str, function: Callable) -> Callable:
        if not op.startswith("attention"):
            return function

        @functools.wraps(function)
        def look(q: Tensor, k: Tensor, v: Tensor, scale: float, *rest, **options) -> Tensor:
            found[_short(running[-1]) if running else op].append(entropy(q.detach(), k.detach(), scale))
            return function(q, k, v, scale, *rest, **options)

        return look

    def end(*_) -> None:  # a hook that returned the name would replace the module's result
        running.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(end, always_call=True))
    try:
        with observed(wrap), torch.compiler.set_stance("force_eager"):
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention_entropy(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """nats, on the device: the mean over images, heads and queries, by layer as :func:`recorded_entropy` names it.

    It lies between 0 and the logarithm of the number of keys.
    """
    with recorded_entropy(model) as found:
        model(inputs)
    return {name: torch.stack([each.mean() for each in calls]).mean() for name, calls in found.items()}


def _short(name: str) -> str:
    """A block's name, where it attends once: what follows it says nothing more."""
    while name.endswith(".attention"):
        name = name.removesuffix(".attention")
    return name
