"""The entropy of attention, layer by layer: where it falls to 0, each query looks at one token, and training breaks down soon.

Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse" (2023). The weights are computed again,
exactly and in float32: fused attention never has them.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amt.hand.autocast import no_autocast
from amt.hand.batch import Inputs
from amt.kernels._backend import observed


@torch.no_grad()
def attention_entropy(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """nats, on the device: the mean over images, heads and queries, by the name of the module that called ``attention``.

    It lies between 0 and the logarithm of the number of keys. A compiled model runs uncompiled here.
    """
    running: list[str] = []  # modules that have begun and not ended
    found: dict[str, list[Tensor]] = defaultdict(list)

    def wrap(op: str, function: Callable) -> Callable:
        if not op.startswith("attention"):
            return function

        @functools.wraps(function)
        def look(q: Tensor, k: Tensor, v: Tensor, scale: float, *rest, **options) -> Tensor:
            found[running[-1] if running else op].append(entropy(q, k, scale))
            return function(q, k, v, scale, *rest, **options)

        return look

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with observed(wrap), torch.compiler.set_stance("force_eager"):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {_short(name): torch.stack(values).mean() for name, values in found.items()}


def entropy(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The mean entropy of softmax(q k^T scale), in nats, of q [B, H, N, D] and k [B, H, M, D]; image by image."""
    total = q.new_zeros((), dtype=torch.float32)
    with no_autocast(q.device.type):
        for queries, keys in zip(q.float(), k.float()):
            logs = (queries @ keys.mT * scale).log_softmax(dim=-1)
            total += -(logs.exp() * logs).sum(dim=-1).mean()
    return total / len(q)


def _short(name: str) -> str:
    """A block's name, where it attends once: what follows it says nothing more."""
    while name.endswith(".attention"):
        name = name.removesuffix(".attention")
    return name
