"""Dataclasses of tensors: moved, indexed, exported and named as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor


class TensorFields:
    """Base of dataclasses whose fields are tensors or such dataclasses again."""

    def map(self, function: Callable[[Tensor], Tensor]):
        """A copy with ``function`` applied to each tensor; ``None`` stays ``None``."""

        def apply(value):
            if isinstance(value, Tensor):
                return function(value)
            return value.map(function) if isinstance(value, TensorFields) else value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Each tensor with its path, such as ``("inputs.image", ...)`` of a batch."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield prefix + field.name, value
            elif isinstance(value, TensorFields):
                yield from value.named_tensors(f"{prefix}{field.name}.")

    def to(self, device: torch.device | str, non_blocking: bool = False):
        """A copy on ``device``. It has the same dtypes: labels stay float32 under mixed precision."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def detach(self):
        """A copy whose tensors carry no gradient."""
        return self.map(Tensor.detach)

    def __getitem__(self, index):
        """A copy with ``tensor[index]`` taken of every tensor: a slice, a mask or indices over the batch."""
        return self.map(lambda tensor: tensor[index])


def exported(cls: type) -> type:
    """Decorates a dataclass: torch.export takes and returns it as a tree of tensors."""
    torch.export.register_dataclass(cls, serialized_type_name=f"amt.{cls.__name__}")
    return cls
