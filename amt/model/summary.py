"""What each part of the model costs: parameters, operations and the memory that training saves for its backward pass.

Nothing is computed: the model runs on fake tensors, which have shapes but no numbers. The large size takes seconds, and the
model may be on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from amt.hand.batch import Inputs
from amt.kernels._torch_private import FakeTensorMode

BETWEEN = "(between modules)"


@dataclass(frozen=True)
class Cost:
    """One module, or all."""

    name: str
    trained: int  # parameters
    frozen: int  # parameters
    flops: float  # an image, forward: matrix products and convolutions, a multiply-add is two
    activation_bytes: float  # an image: what is saved for backward in training, float32; no parameters, no buffers


@dataclass(frozen=True)
class Summary:
    """The model's direct children in the order in which they are declared; ``print`` it for the table."""

    title: str
    modules: tuple[Cost, ...]
    total: Cost

    def __str__(self) -> str:
        head = ("module", "trained", "frozen", "GFLOP", "saved, MB")
        rows = [
            (c.name, f"{c.trained:,}", f"{c.frozen:,}", f"{c.flops / 1e9:.3f}", f"{c.activation_bytes / 1e6:.2f}")
            for c in (*self.modules, self.total)
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))])
            for row in (head, *rows)
        ]
        rule = "-" * len(lines[0])
        note = "GFLOP: forward, an image. saved: an image, for backward in training at float32."
        return "\n".join([self.title, lines[0], rule, *lines[1:-1], rule, lines[-1], note])


def summarize(model: nn.Module, batch_size: int = 8, num_points: int = 256) -> Summary:
    """Measures an :class:`~amt.model.AMT` on any device; its parameters, buffers and mode stay as they are.

    Args:
        batch_size: images of the pass whose figures are divided by it; costs that do not grow with the batch are divided too.
        num_points: of the object.
    """
    meter, was_training = _Meter(model), model.training
    model.train()
    try:
        with FakeTensorMode(), torch.random.fork_rng(devices=[]):
            state = fake_state(model)
            with meter.measuring(state):
                torch.func.functional_call(model, state, (fake_inputs(batch_size, num_points, model.config.crop_size),))
    finally:
        model.train(was_training)
    return Summary(_title(model), *meter.costs(batch_size))


def fake_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name as fakes on the CPU, for ``torch.func.functional_call`` inside a FakeTensorMode.

    On the CPU whatever device the model is on: attention and ops then are the fused ones.
    """
    return {
        name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu", requires_grad=t.requires_grad)
        for name, t in (*model.named_parameters(), *model.named_buffers())
    }


def _title(model: nn.Module) -> str:
    config = model.config
    return f"{config.size}: {config.backbone.name}, crop {config.crop_size} px, hidden {config.hidden}"


def fake_inputs(batch: int, num_points: int, size: int) -> Inputs:
    """Inputs of ``batch`` crops of ``size`` px, for use inside a FakeTensorMode."""
    return Inputs(
        image=torch.zeros(batch, 3, size, size, dtype=torch.uint8),
        intrinsics=torch.zeros(batch, 3, 3),
        box=torch.zeros(batch, 3),
        frame_intrinsics=torch.zeros(batch, 3, 3),
        frame_size=torch.zeros(batch, 2),
        right=torch.zeros(batch, dtype=torch.bool),
        object_class=torch.zeros(batch, dtype=torch.long),
        object_points=torch.zeros(batch, num_points, 3),
        object_look=torch.zeros(batch, num_points, 7),
    )


class _Meter:
    """Counts operations and saved storages, and books them on the direct child that is running."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.running = BETWEEN
        self.flops: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        from torch.utils.flop_counter import FlopCounterMode  # loads Triton, which no other use of the model needs

        from amt.kernels.flops import formulas

        self.counter = FlopCounterMode(display=False, custom_mapping=formulas())
        self.counted = 0
        self.storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    @contextmanager
    def measuring(self, state: dict[str, Tensor]) -> Iterator[None]:
        """``state`` holds what is not an activation: parameters and buffers by name."""
        self.storages = {s._cdata: s for s in (t.untyped_storage() for t in state.values())}
        hooks = []
        for name, child in self.model.named_children():
            hooks.append(child.register_forward_pre_hook(lambda *_, name=name: self._enter(name)))
            hooks.append(child.register_forward_hook(lambda *_: self._enter(BETWEEN)))
        try:
            with self.counter, saved_tensors_hooks(self._save, lambda tensor: tensor):
                yield
                self._enter(BETWEEN)
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> None:
        """What was counted since the last call belongs to what ran until now; from here on ``name`` runs."""
        total = self.counter.get_total_flops()
        self.flops[self.running] = self.flops.get(self.running, 0) + total - self.counted
        self.counted, self.running = total, name

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = storage
            self.bytes[self.running] = self.bytes.get(self.running, 0) + storage.nbytes()
        return tensor

    def costs(self, batch: int) -> tuple[tuple[Cost, ...], Cost]:
        def cost(name: str, parameters: Iterable[nn.Parameter], flops: int, saved: int) -> Cost:
            parameters = list(parameters)
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            return Cost(name, trained, sum(p.numel() for p in parameters) - trained, flops / batch, saved / batch)

        owners = {name: child.parameters() for name, child in self.model.named_children()}
        owners[BETWEEN] = self.model.parameters(recurse=False)
        rows = (cost(name, own, self.flops.get(name, 0), self.bytes.get(name, 0)) for name, own in owners.items())
        total = cost("total", self.model.parameters(), sum(self.flops.values()), sum(self.bytes.values()))
        return tuple(row for row in rows if row.trained or row.frozen or row.flops or row.activation_bytes), total
