"""Steps without a finite loss and gradient: undone on the device, counted, and explained where too many come in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amt.hand.batch import Batch
from amt.train.losses import Loss
from amt.train.ranks import gathered

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MOST_NAMES = 8  # of samples or terms in one message


class FiniteGuard:
    """Keeps what a forward pass changes, so that a bad step leaves it as it was; the host never waits to know.

    Weights and moments are the optimizers' own part: they read ``found_inf``.

    Args:
        model: the running statistics of its batch norms are restored.
        others: further tensors that a step changes in place.
    """

    def __init__(self, model: nn.Module, device: torch.device, others: Iterable[Tensor] = ()):
        norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
        self.tensors = [*(buffer for norm in norms for buffer in norm.buffers()), *others]
        self.before: list[Tensor] = []
        self.in_a_row = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)  # in the whole run

    @torch.no_grad()
    def begin(self) -> None:
        """Remembers the tensors before a step."""
        self.before = [tensor.clone() for tensor in self.tensors]

    @torch.no_grad()
    def end(self, finite: Tensor) -> Tensor:
        """Restores the tensors where ``finite`` (bool, on the device) is False. Returns 1.0 there and else 0.0."""
        found_inf = 1 - finite.float()
        for tensor, value in zip(self.tensors, self.before):
            tensor.copy_(torch.where(finite, tensor, value))
        self.before = []
        self.in_a_row = (self.in_a_row + 1) * found_inf
        self.skipped = self.skipped + found_inf
        return found_inf

    def state_dict(self) -> dict[str, Tensor]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.in_a_row.copy_(state["in_a_row"])
        self.skipped.copy_(state["skipped"])


def explain(model: nn.Module, batches: Iterable[Batch], forward: Callable[[Batch], Loss]) -> str:
    """What is not finite in a step, from doing it again with a hook on every module: slow, and only for a run that ends.

    Args:
        batches: the step's micro-batches.
        forward: the loss of one, in training mode and with the step's random numbers.

    Returns:
        One line: the values of the batch, the first module, the loss terms and the samples (by their index in the set).
    """
    for batch in batches:
        own = _of_batch(batch)
        found = list(own)
        order, outputs = _Recorder(model), None
        with order:
            loss = forward(batch)
        if order.first is not None:
            name, outputs = order.first
            found.append(f"the first module is {name}")
        terms = [name for name, value in loss.terms.items() if not value.isfinite()]
        if terms:
            found.append(f"the loss terms are {_some(terms)}")
        if loss.total.isfinite():
            model.zero_grad(set_to_none=True)
            loss.total.backward()
            module = order.last_without_finite_gradient()
            found += [f"the first gradient in the backward pass is {module}'s"] if module else []
            model.zero_grad(set_to_none=True)
        if any(gathered(bool(found))):  # on some rank: all of them end here
            bad = _no_focal(batch) | _rows(batch, len(batch.index)) | _rows(outputs, len(batch.index))
            index = batch.index.cpu()
            samples = f"samples {_some((index[bad] if bad.any() else index).tolist())}"
            # the rank that has the bad samples tells more than those that only see the loss of all
            reports = gathered(((bool(own), bool(bad.any())), "not finite: " + "; ".join([*found, samples])))
            return max(reports, key=lambda report: report[0])[1]
    return "the step is finite when it is done again"


class _Recorder:
    """The modules in the order in which they end, and the first with an output that is not finite."""

    def __init__(self, model: nn.Module):
        self.model, self.ended = model, []
        self.first: tuple[str, Any] | None = None

    def __enter__(self) -> _Recorder:
        self.hooks = [
            module.register_forward_hook(lambda module, _, output, name=name: self._note(name, module, output))
            for name, module in self.model.named_modules()
            if name
        ]
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    def _note(self, name: str, module: nn.Module, output: Any) -> None:
        self.ended.append((name, module))
        if self.first is None and any(not _is_finite(tensor) for tensor in _tensors(output)):
            self.first = name, output

    def last_without_finite_gradient(self) -> str | None:
        for name, module in reversed(self.ended):
            grads = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
            if not all(_is_finite(grad) for grad in grads):
                return name
        return None


def _of_batch(batch: Batch) -> list[str]:
    """What is wrong with a batch before any module sees it."""
    names = [name for name, tensor in batch.named_tensors() if not _is_finite(tensor)]
    found = [f"the batch's {_some(names)}"] if names else []
    return found + (["the batch's inputs.intrinsics have a focal length of 0"] if _no_focal(batch).any() else [])


def _no_focal(batch: Batch) -> Tensor:
    return (batch.inputs.intrinsics.diagonal(dim1=1, dim2=2)[:, :2] == 0).any(dim=1).cpu()


def _rows(output: Any, count: int) -> Tensor:
    """bool [count]: the samples of a module's output, or of one tensor, that are not finite."""
    found = [(~t.isfinite()).flatten(1).any(dim=1) for t in _tensors(output) if t.dim() > 1 and len(t) == count]
    found += [~t.isfinite() for t in _tensors(output) if t.dim() == 1 and len(t) == count]
    return torch.stack([rows.cpu() for rows in found]).any(dim=0) if found else torch.zeros(count, dtype=torch.bool)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _some(names: list) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(str, names[:MOST_NAMES])) + more
