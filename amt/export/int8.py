"""Which products are int8: simulated in PyTorch by module, on crops, before NNCF quantises the exported file.

A product in int8 is a convolution or linear layer whose weights have a step an output channel, symmetric, and whose input has
one step for all of it, from the smallest to the largest value on the crops. :mod:`amt.export.openvino_file` has NNCF do the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from amt.export.crops import Arrays, tensors
from amt.export.differences import differences
from amt.export.program import Flat
from amt.model import AMT

MOST_MM = 0.2  # mean movement of the joints on the crops that choose; 0.3 mm are allowed on others
# Modules that may be int8. What they give are features; all that is metres, angles or logits stays float32.
PARTS = ("backbone.", "neck.", "fusion.")


class Product:
    """A convolution or linear layer with what its int8 form needs.

    Attributes:
        low, high: of its input on the crops.
        work: multiplications a crop.
        moves_mm: mean movement of the joints where it alone is int8.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        self.layer, self.low, self.high, self.work, self.moves_mm = layer, 0.0, 0.0, 0, 0.0

    def watch(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Widens the input's range; a forward hook."""
        low, high = inputs[0].aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        channels = self.layer.weight.shape[0]
        self.work = self.layer.weight.numel() * output.numel() // (channels * len(output))

    @contextmanager
    def in_int8(self):
        """Rounds weights and input while the context lasts."""
        weight = self.layer.weight.detach().clone()
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: (round_input(inputs[0], self.low, self.high),))
        try:
            self.layer.weight.data.copy_(round_weight(weight))
            yield
        finally:
            hook.remove()
            self.layer.weight.data.copy_(weight)


def round_weight(weight: Tensor) -> Tensor:
    """Weights [O, ...] in 255 steps around zero, a step size an output channel."""
    step = weight.flatten(1).abs().amax(1).clamp_min(1e-12).div(127).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / step).round() * step


def round_input(x: Tensor, low: float, high: float) -> Tensor:
    """Values in 256 steps from ``low`` <= 0 to ``high`` >= 0, which are saturated there; zero stays zero."""
    step = max(high - low, 1e-12) / 255
    zero = round(-low / step)
    return ((x / step).round() + zero).clamp(0, 255).sub(zero).mul(step)


def products(model: AMT) -> dict[str, Product]:
    """The layers that may be int8, by their names."""
    return {
        name: Product(layer)
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and name.startswith(PARTS)
    }


def choose(model: AMT, crops: Arrays, most_mm: float = MOST_MM) -> tuple[list[str], list[str]]:
    """The layers that are int8 and those that stay float32: the former move the joints by at most ``most_mm`` on average.

    Errors of layers add up as their squares. So layers are tried in the order of their own square over their multiplications, and
    one that exceeds the limit is left out.
    """
    given, found, flat = tensors(crops), products(model), Flat(model)

    def answers() -> Arrays:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in flat(**given).items()}

    def movement(chosen: Iterable[Product]) -> float:
        with ExitStack() as stack:
            for product in chosen:
                stack.enter_context(product.in_int8())
            return differences(exact, answers())["joints_mm"]

    hooks = [product.layer.register_forward_hook(product.watch) for product in found.values()]
    try:
        exact = answers()
    finally:
        for hook in hooks:
            hook.remove()
    for product in found.values():
        product.moves_mm = movement([product])
    chosen: list[str] = []
    for name in sorted(found, key=lambda name: found[name].moves_mm ** 2 / max(1, found[name].work)):
        if movement(found[other] for other in (*chosen, name)) <= most_mm:
            chosen.append(name)
    return [name for name in found if name in chosen], [name for name in found if name not in chosen]


def scopes(model: AMT, names: Sequence[str]) -> set[str]:
    """The modules of a traced program that these layers' products come from: a batch norm behind a convolution takes it over."""
    found = set(names)
    for name in names:
        parent, _, last = name.rpartition(".")
        beside = model.get_submodule(parent)
        following = beside[int(last) + 1] if isinstance(beside, nn.Sequential) and int(last) + 1 < len(beside) else None
        if isinstance(following, nn.BatchNorm2d):
            found.add(f"{parent}.{int(last) + 1}")
    return found
