"""Steps without a finite loss and gradient: undone on the device, counted, and explained where too many come in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from amt.hand.batch import Batch
from amt.model.nonfinite import ModuleRecorder, bad_rows, batch_faults, no_focal, some
from amt.train.losses import Loss
from amt.train.ranks import gathered

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        own = batch_faults(batch)
        found = list(own)
        order, outputs = ModuleRecorder(model), None
        with order:
            loss = forward(batch)
        if order.first is not None:
            name, outputs = order.first
            found.append(f"the first module is {name}")
        terms = [name for name, value in loss.terms.items() if not value.isfinite()]
        if terms:
            found.append(f"the loss terms are {some(terms)}")
        if loss.total.isfinite():
            model.zero_grad(set_to_none=True)
            loss.total.backward()
            module = order.last_without_finite_gradient()
            found += [f"the first gradient in the backward pass is {module}'s"] if module else []
            model.zero_grad(set_to_none=True)
        if any(gathered(bool(found))):  # on some rank: all of them end here
            bad = no_focal(batch) | bad_rows(batch, len(batch.index)) | bad_rows(outputs, len(batch.index))
            index = batch.index.cpu()
            samples = f"samples {some((index[bad] if bad.any() else index).tolist())}"
            # the rank that has the bad samples tells more than those that only see the loss of all
            reports = gathered(((bool(own), bool(bad.any())), "not finite: " + "; ".join([*found, samples])))
            return max(reports, key=lambda report: report[0])[1]
    return "the step is finite when it is done again"
