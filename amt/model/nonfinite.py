"""Where a value that is not finite comes from: the batch, or the first module and op of a forward or backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from amt.hand.batch import Batch
from amt.kernels._torch_private import TorchDispatchMode

MOST_NAMES = 8  # of samples or terms in one message


class ModuleRecorder:
    """The modules in the order in which they end, and the first with an output that is not finite.

    Args:
        ops: also the ops that made it, at a cost: each op's results are looked at.
    """

    def __init__(self, model: nn.Module, ops: bool = False):
        self.model, self.ended = model, []
        self.first: tuple[str, Any] | None = None
        self.running: list[str] = []
        self._ops = _FirstOps(self.running) if ops else None

    def __enter__(self) -> ModuleRecorder:
        self.hooks = []
        for name, module in self.model.named_modules():
            if self._ops is not None:
                self.hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self.running.append(name)))
                # with always_call: a module that raises has ended, too
                self.hooks.append(module.register_forward_hook(self._end, always_call=True))
            if name:
                hook = module.register_forward_hook(
                    lambda module, _, output, name=name: self._note(name, module, output)
                )
                self.hooks.append(hook)
        if self._ops is not None:
            self._ops.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self._ops is not None:
            self._ops.__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def _end(self, *_) -> None:
        self.running.pop()

    def _note(self, name: str, module: nn.Module, output: Any) -> None:
        self.ended.append((name, module))
        if self.first is None and any(not is_finite(tensor) for tensor in tensors_in(output)):
            self.first = name, output

    def first_op(self) -> tuple[str, str] | None:
        """The module ("" for the model itself) and the op that made the first such output out of finite values, where one did.

        A result that is not finite and goes no farther than into a mask does not count: the op runs in the module of the first
        such output, or in one around it.
        """
        if self._ops is None or self.first is None:
            return None
        around = self.first[0]
        for module, op in self._ops.found:
            if module == around or module == "" or around.startswith(f"{module}."):
                return module, op
        return None

    def last_without_finite_gradient(self) -> str | None:
        for name, module in reversed(self.ended):
            grads = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
            if not all(is_finite(grad) for grad in grads):
                return name
        return None


class _FirstOps(TorchDispatchMode):
    """Ops with finite arguments and a result that is not, with the module that was running, in order."""

    def __init__(self, running: list[str]):
        super().__init__()
        self.running = running
        self.found: list[tuple[str, str]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before = _all_finite(args, kwargs) if op._schema.is_mutable else None  # what it changes is looked at first
        result = op(*args, **kwargs)
        broken = self.running and any(not is_finite(tensor) for tensor in tensors_in(result))
        if broken and (_all_finite(args, kwargs) if before is None else before):
            self.found.append((self.running[-1], str(op)))
        return result


def _all_finite(args: tuple, kwargs: dict) -> bool:
    given = (*args, *kwargs.values())
    numbers = all(isfinite(value) for value in _flat(given) if isinstance(value, float))
    return numbers and all(is_finite(tensor) for tensor in tensors_in(given))


def batch_faults(batch: Batch) -> list[str]:
    """What is wrong with a batch before any module sees it."""
    names = [name for name, tensor in batch.named_tensors() if not is_finite(tensor)]
    found = [f"the batch's {some(names)}"] if names else []
    return found + (["the batch's inputs.intrinsics have a focal length of 0"] if no_focal(batch).any() else [])


def no_focal(batch: Batch) -> Tensor:
    """bool [B], on the CPU: the samples whose focal length is 0."""
    return (batch.inputs.intrinsics.diagonal(dim1=1, dim2=2)[:, :2] == 0).any(dim=1).cpu()


def bad_rows(output: Any, count: int) -> Tensor:
    """bool [count]: the samples of a module's output, or of one tensor, that are not finite."""
    found = [(~t.isfinite()).flatten(1).any(dim=1) for t in tensors_in(output) if t.dim() > 1 and len(t) == count]
    found += [~t.isfinite() for t in tensors_in(output) if t.dim() == 1 and len(t) == count]
    return torch.stack([rows.cpu() for rows in found]).any(dim=0) if found else torch.zeros(count, dtype=torch.bool)


def is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists, dictionaries and dataclasses."""
    return (part for part in _flat(value) if isinstance(part, Tensor))


def some(names: list) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(str, names[:MOST_NAMES])) + more


def _flat(value: Any) -> Iterator[Any]:
    if is_dataclass(value):
        for field in fields(value):
            yield from _flat(getattr(value, field.name))
    elif isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _flat(part)
    else:
        yield value
