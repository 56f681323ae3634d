"""What every layer puts out over a batch, and which of its units never change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amt.model.backbone import Normalize
from amt.model.layers import Mlp

SAMPLE = 50_000  # values of a layer that its quantiles come from
STILL = 1e-6  # a unit is dead that varies less than this, over the largest value of its layer
CHANNELS_SECOND = (nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d, Normalize)
SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class LayerActivation:
    """The outputs of one layer over a batch."""

    name: str
    kind: str  # its class
    shape: tuple[int, ...]
    mean: float
    std: float
    largest: float  # absolute value
    zeros: float  # share of exact zeros
    finite: bool
    quantiles: tuple[float, ...]  # at 1, 25, 50, 75 and 99 %
    units: int  # channels or features
    dead: int | None  # that have the same value everywhere; None: its input does not vary either

    @property
    def dead_share(self) -> float:
        return (self.dead or 0) / self.units if self.units else 0.0


@contextmanager
def recorded_activations(model: nn.Module) -> Iterator[list[LayerActivation]]:
    """A block in which a forward pass fills a list, in the order in which layers end. A layer that runs twice is there twice.

    Layers are modules without children; the hidden units of an :class:`amt.model.layers.Mlp` are looked at after its GELU.
    """
    found: list[LayerActivation] = []
    hooks = []

    def output(name: str):
        def look(module: nn.Module, inputs: tuple, result) -> None:
            if isinstance(result, Tensor) and result.is_floating_point():
                given = next((x for x in inputs if isinstance(x, Tensor)), None)
                found.append(_look(name, module, given, result.detach()))

        return look

    def hidden(name: str):
        def look(module: nn.Module, inputs: tuple) -> None:
            found.append(_look(f"{name} (hidden)", module, None, inputs[0].detach()))

        return look

    for name, module in model.named_modules():
        if isinstance(module, Mlp):
            hooks.append(module.fc2.register_forward_pre_hook(hidden(name)))
        if name and not any(True for _ in module.children()) and not isinstance(module, nn.Identity):
            hooks.append(module.register_forward_hook(output(name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _look(name: str, module: nn.Module, given: Tensor | None, value: Tensor) -> LayerActivation:
    value = value.float()
    flat = value.flatten()
    finite = bool(flat.isfinite().all())
    some = flat[:: max(1, len(flat) // SAMPLE)]
    some = some[some.isfinite()]
    kept = some if len(some) else flat.new_zeros(1)
    quantiles = torch.quantile(kept, kept.new_tensor(SHARES))
    second = isinstance(module, CHANNELS_SECOND) or (value.dim() == 4 and isinstance(module, nn.ReLU))
    units = value.movedim(1, -1) if second else value
    units = units.reshape(-1, units.shape[-1]) if units.dim() > 1 else units[:, None]
    dead = None
    if len(units) > 1 and finite and (given is None or _varies(given, module)):
        span = units.amax(dim=0) - units.amin(dim=0)
        dead = int((span <= STILL * units.abs().max()).sum())
    return LayerActivation(
        name=name,
        kind=type(module).__name__,
        shape=tuple(value.shape),
        mean=float(kept.mean()),
        std=float(kept.std(unbiased=False)),
        largest=float(kept.abs().max()) if finite else float("inf"),
        zeros=float((flat == 0).float().mean()),
        finite=finite,
        quantiles=tuple(float(q) for q in quantiles),
        units=units.shape[1],
        dead=dead,
    )


def _varies(given: Tensor, module: nn.Module) -> bool:
    """Whether the images of the batch differ in a layer's input; what is looked up by class need not."""
    if isinstance(module, nn.Embedding) or given.dim() < 2 or len(given) < 2:
        return False
    return bool((given[1:] != given[:1]).any())
