"""What is made of a module's weights alone: kept while no gradient is needed, made anew when the weights change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def prepared(module: nn.Module, name: str, weights: tuple[Tensor, ...], make: Callable[..., Any], *options) -> Any:
    """``make(*weights, *options)``, or what it gave the last time under this name.

    It is kept in evaluation mode under no_grad alone, beside the module's state and not in it. A weight counts as changed where
    it is another tensor, lies elsewhere or was written in place. What is written past PyTorch's version counter
    (``weight.data.copy_``, a replayed CUDA graph) is not seen until the module has run in training mode once.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return make(*weights, *options)
    if module.training:
        module.__dict__.pop("_prepared", None)
        return make(*weights, *options)
    if any(weight.is_inference() for weight in weights):  # made in inference mode: no version counter
        return make(*weights, *options)
    kept = module.__dict__.setdefault("_prepared", {})
    state = [*options, *((weight.data_ptr(), weight._version) for weight in weights)]
    before_weights, before_state, value = kept.get(name, ((), None, None))
    if before_state != state or not all(a is b for a, b in zip(before_weights, weights)):
        value = make(*weights, *options)
        kept[name] = weights, state, value
    return value
