"""How much memory a run will take, told before it takes it. Nothing is computed: the model runs on fake tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amt.kernels._torch_private import FakeTensorMode, StorageWeakRef, TorchDispatchMode, tree_leaves
from amt.model.summary import fake_inputs, fake_state
from amt.train import ranks
from amt.train.config import TrainConfig
from amt.train.parallelize import transformer_blocks

FEW = 4  # images of the pass whose activations are measured


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step. ``print`` it for one line."""

    weights: int  # parameters and buffers; of a sharded model, its share and what is gathered at a time
    gradients: int
    moments: int  # of the optimizers
    average: int  # of the weights
    activations: int  # of one micro-batch: what a forward pass keeps for its backward pass
    images: int  # of a micro-batch

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.activations

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {_gigabytes(value)}"
            for name, value in (
                ("weights", self.weights),
                ("gradients", self.gradients),
                ("moments", self.moments),
                ("average", self.average),
                (f"activations of {self.images} images", self.activations),
            )
        )
        return f"memory of a step: about {_gigabytes(self.total)} GB ({parts})"


def estimate(model: nn.Module, optimizers: list[torch.optim.Optimizer], train: TrainConfig, num_points: int) -> Memory:
    """The memory of a step on each device; batches and what the kernels use for a moment come on top.

    Args:
        model: in one piece.
        num_points: of an object.
    """
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    state = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    moments = 0
    for optimizer in optimizers:
        count = 2 if isinstance(optimizer, torch.optim.AdamW) else 1
        moments += sum(count * p.nbytes for group in optimizer.param_groups for p in group["params"])
    images = train.batch_size // train.accumulate // ranks.size()
    shards, gathered = 1, 0
    if train.parallel == "fsdp":  # what is in no block is gathered for the whole step, and one block at a time
        blocks = [sum(p.nbytes for p in block.parameters()) for block in transformer_blocks(model)]
        shards, gathered = (
            ranks.size(),
            sum(p.nbytes for p in model.parameters()) - sum(blocks) + max(blocks, default=0),
        )
    return Memory(
        weights=state // shards + gathered,
        gradients=trained // shards,
        moments=moments // shards,
        average=sum(tensor.nbytes for tensor in model.state_dict().values()) // shards if train.ema else 0,
        activations=activation_bytes(model, num_points, train.precision != "float32") * images // FEW,
        images=images,
    )


def activation_bytes(model: nn.Module, num_points: int = 256, bf16: bool = False, images: int = FEW) -> int:
    """What a forward pass in training mode leaves in memory for its backward pass, without parameters and buffers.

    It is counted by what is still alive when the pass has ended, so that what is recomputed later does not count. The model's
    parameters, buffers and mode stay as they are; it may be on the meta device.
    """
    was_training = model.training
    model.train()
    try:
        with FakeTensorMode(), torch.random.fork_rng(devices=[]):
            state, inputs = fake_state(model), fake_inputs(images, num_points, model.config.crop_size)
            with _Storages() as made, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                prediction = torch.func.functional_call(model, state, (inputs,))
            alive = made.alive_bytes()
            del prediction
    finally:
        model.train(was_training)
    return alive


class _Storages(TorchDispatchMode):
    """The storages that operations make and those that they are given; neither are kept alive."""

    def __init__(self):
        super().__init__()
        self.made: dict[int, StorageWeakRef] = {}
        self.given: dict[int, StorageWeakRef] = {}
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        self._note(self.given, self.made, (args, kwargs))
        result = function(*args, **(kwargs or {}))
        self._note(self.made, self.given, result)
        return result

    def _note(self, these: dict[int, StorageWeakRef], others: dict[int, StorageWeakRef], values: Any) -> None:
        for storage in _storages(values):
            place = storage._cdata  # of a storage that is gone, perhaps
            if not any(place in known and not known[place].expired() for known in (these, others)):
                others.pop(place, None)
                these[place], self.sizes[place] = StorageWeakRef(storage), storage.nbytes()

    def alive_bytes(self) -> int:
        return sum(self.sizes[place] for place, reference in self.made.items() if not reference.expired())


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"
