"""The debugger: three looks at a model, each of which changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amt.debug.activations import LayerActivation, recorded_activations
from amt.debug.diversity import Diversity, judge_diversity
from amt.debug.gradients import LayerGradient, default_loss, layer_gradients
from amt.debug.undisturbed import undisturbed
from amt.hand.batch import Batch
from amt.model.attention_entropy import recorded_entropy
from amt.model.nonfinite import ModuleRecorder, bad_rows, batch_faults, is_finite, no_focal, some
from amt.model.outputs import Prediction

DEAD_SHARE = 0.5  # of a layer's units
LARGEST = 1e4  # absolute value of an activation; float16 ends at 65,504
EXPLODING = 100.0  # a gradient's norm over its weights'
LEAST_ENTROPY = 0.02  # nats: a query looks at 1.02 tokens
FEW_QUERIES = 8  # fewer choose a token each, such as a joint's; that is no collapse
MOST_NAMED = 5  # layers in one sentence

Loss = Callable[[Prediction, Batch], Tensor]


@dataclass(frozen=True)
class ParameterStatistics:
    """One parameter's values."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    largest: float  # absolute value
    zeros: float  # share of exact zeros
    finite: bool


@dataclass(frozen=True)
class ModelReport:
    """What :meth:`ModelDebugger.analyze_model` found. ``str()`` tells the faults, or that there are none."""

    loss: float
    activations: tuple[LayerActivation, ...]  # in the order of the forward pass
    parameters: tuple[ParameterStatistics, ...]
    gradients: tuple[LayerGradient, ...]  # in the model's order
    entropy: dict[str, float]  # nats, by attention layer: mean over images, heads and queries
    entropy_of_heads: dict[str, float]  # the least of its heads
    faults: tuple[str, ...]

    def __str__(self) -> str:
        trained = [g for g in self.gradients if g.grad_norm is not None and g.finite]
        silent = [g.name for g in self.gradients if not g.grad_norm]
        worst = max(self.activations, key=lambda a: a.dead_share, default=None)
        lines = list(self.faults) or ["no fault was found"]
        lines.append(f"  {len(self.activations)} layers, {len(self.parameters)} parameters, loss {self.loss:.3g}")
        if worst is not None and worst.dead:
            lines.append(f"  most dead units: {worst.dead} of {worst.units} in {worst.name}")
        if trained:
            high, low = max(trained, key=lambda g: g.ratio), min(trained, key=lambda g: g.ratio)
            lines.append(
                f"  gradient over weights: {low.ratio:.1e} ({low.name}) to {high.ratio:.1e} ({high.name})"
                + (f"; none in {_names(silent)}" if silent else "")
            )
        if self.entropy:
            least = min(self.entropy, key=self.entropy.get)
            lines.append(f"  least attention entropy: {self.entropy[least]:.2f} nats in {least}")
        return "\n".join(lines)

    def gradient_picture(self) -> bytes:
        """The gradient flow as a PNG: one bar a layer."""
        from amt.debug.pictures import gradient_flow

        return gradient_flow(self.gradients, EXPLODING)


@dataclass(frozen=True)
class NonFinite:
    """Where the first value that is not finite comes from. ``str()`` is one line."""

    batch: tuple[str, ...]  # what is wrong with the batch itself
    module: (
        str | None
    )  # the first module with such an output; where the values came in with the batch, the first that shows it
    op: str | None  # that made it out of finite values, as PyTorch names it
    backward: str | None  # the module with the first such gradient, where the forward pass is finite
    samples: tuple[int, ...]  # indices in the set
    own: tuple[str, ...] = ()  # the module's parameters and buffers that are not finite themselves

    def __str__(self) -> str:
        found = list(self.batch)
        if self.module is not None:
            why = f", by {self.op}" if self.op else f", whose {_names([*self.own])} is not finite" if self.own else ""
            found.append(f"the first module is {self.module}{why}")
        if self.backward is not None:
            found.append(f"the first gradient in the backward pass is {self.backward}'s")
        return "not finite: " + "; ".join([*found, f"samples {some(list(self.samples))}"])


class ModelDebugger:
    """Looks at a model in the mode that it is in. Every look leaves parameters, buffers, gradients, modes and random numbers as
    they were, to the bit.

    Args:
        model: an :class:`amt.model.AMT`.
        loss: of a prediction and its batch, a number; :func:`amt.debug.gradients.default_loss` where none is given.
    """

    def __init__(self, model: nn.Module, loss: Loss | None = None):
        self.model, self.loss = model, loss or default_loss

    def analyze_model(self, batch: Batch) -> ModelReport:
        """Activations, dead units, parameters, gradient flow and attention over one batch of at least 2 images.

        Raises:
            ValueError: fewer images.
        """
        if len(batch.index) < 2:
            raise ValueError(
                f"analyze_model: expected at least 2 images, got {len(batch.index)}: units are compared over them"
            )
        batch = batch.to(self._device())
        with undisturbed(self.model), torch.enable_grad():
            with recorded_activations(self.model) as activations, recorded_entropy(self.model) as entropies:
                loss = self.loss(self.model(batch.inputs), batch)
            if loss.requires_grad:  # else every parameter is frozen
                loss.backward()
            gradients = layer_gradients(self.model)
            parameters = [_statistics(name, p.detach()) for name, p in self.model.named_parameters()]
        by_head = {name: torch.cat([x.mean(dim=2) for x in calls]).mean(dim=0) for name, calls in entropies.items()}
        entropy = {name: float(heads.mean()) for name, heads in by_head.items()}
        value = float(loss.detach())
        faults = [*_parameter_faults(parameters), *_activation_faults(activations), *_gradient_faults(value, gradients)]
        many = {name for name, calls in entropies.items() if calls[0].shape[2] >= FEW_QUERIES}
        narrow = [
            f"{name} ({entropy[name]:.3f} nats)" for name in entropy if name in many and entropy[name] < LEAST_ENTROPY
        ]
        if narrow:
            faults.append(f"attention has collapsed to one token a query: {_names(narrow)}")
        least = {name: float(heads.min()) for name, heads in by_head.items()}
        return ModelReport(
            value, tuple(activations), tuple(parameters), tuple(gradients), entropy, least, tuple(faults)
        )

    @torch.no_grad()
    def debug_prediction_diversity(self, loader: Iterable[Batch], most: int = 512) -> Diversity:
        """Whether predictions differ as the labels do, over the first ``most`` labelled hands of a loader.

        Raises:
            ValueError: fewer than 8 labelled hands.
        """
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        with undisturbed(self.model):
            for batch in loader:
                batch = batch.to(self._device())
                inputs, valid = batch.inputs, batch.targets.hand_valid
                swapped = replace(inputs, image=inputs.image.roll(1, dims=0))
                joints = (self.model(inputs).joints, batch.targets.joints, self.model(swapped).joints)
                if len(valid) > 1:  # a single picture has no other one to change with
                    parts.append(tuple(x[valid].cpu() for x in joints))
                if sum(len(part[0]) for part in parts) >= most:
                    break
        if not parts:
            raise ValueError("diversity: the loader gave no batch of at least 2 images")
        return judge_diversity(*(torch.cat(each)[:most] for each in zip(*parts)))

    def find_nonfinite(self, batch: Batch) -> NonFinite | None:
        """Where the first value that is not finite comes from, in batch, forward and backward pass; None: all are finite."""
        batch = batch.to(self._device())
        with undisturbed(self.model), torch.enable_grad():
            own, recorder = batch_faults(batch), ModuleRecorder(self.model, ops=True)
            with recorder:
                prediction = self.model(batch.inputs)
            loss = self.loss(prediction, batch)
            module, op, outputs, backward = None, None, None, None
            if recorder.first is not None:
                module, outputs = recorder.first
                made = recorder.first_op()
                if made is not None:
                    module, op = made[0] or module, made[1]
            elif is_finite(loss) and loss.requires_grad:
                loss.backward()
                backward = recorder.last_without_finite_gradient()
        if not own and module is None and backward is None and is_finite(loss):
            return None
        bad = no_focal(batch) | bad_rows(batch, len(batch.index)) | bad_rows(outputs, len(batch.index))
        index = batch.index.cpu()
        samples = (index[bad] if bad.any() else index).tolist()
        if not own and module is None and backward is None:
            module = "the loss"
        return NonFinite(tuple(own), module, op, backward, tuple(samples), self._broken(module))

    def _broken(self, name: str | None) -> tuple[str, ...]:
        """The module's own parameters and buffers that are not finite."""
        module = dict(self.model.named_modules()).get(name)
        own = [] if module is None else [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        return tuple(key for key, value in own if not is_finite(value.detach()))

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _statistics(name: str, p: Tensor) -> ParameterStatistics:
    values = p.float().flatten()
    finite = bool(values.isfinite().all())
    std = float(values.std(unbiased=False))
    return ParameterStatistics(
        name,
        tuple(p.shape),
        float(values.mean()),
        std,
        float(values.abs().max()),
        float((values == 0).float().mean()),
        finite,
    )


def _parameter_faults(parameters: list[ParameterStatistics]) -> list[str]:
    broken = [p.name for p in parameters if not p.finite]
    return [f"parameters are not finite: {_names(broken)}"] if broken else []


def _activation_faults(activations: list[LayerActivation]) -> list[str]:
    found = []
    broken = [a.name for a in activations if not a.finite]
    if broken:
        found.append(f"activations are not finite, first in {broken[0]}: find_nonfinite(batch) names the op")
    large = [f"{a.name} ({a.largest:.1e})" for a in activations if a.finite and a.largest > LARGEST]
    if large:
        found.append(f"activations explode: {_names(large)}")
    dead = [f"{a.name} ({a.dead} of {a.units})" for a in activations if a.units > 1 and a.dead_share >= DEAD_SHARE]
    if dead:
        found.append(f"dead units: {_names(dead)}")
    return found


def _gradient_faults(loss: float, gradients: list[LayerGradient]) -> list[str]:
    found = []
    if not math.isfinite(loss):
        found.append(f"the loss is not finite ({loss:g}): find_nonfinite(batch) names where that comes from")
    broken = [g.name for g in gradients if not g.finite]
    if broken:
        found.append(f"gradients are not finite: {_names(broken)}")
    large = sorted((g for g in gradients if g.finite and g.ratio > EXPLODING), key=lambda g: -g.ratio)
    if large:
        found.append(f"gradients explode: {_names([f'{g.name} ({g.ratio:.1e} times its weights)' for g in large])}")
    if gradients and loss > 0 and not any(g.grad_norm for g in gradients):
        found.append("no gradient reaches any layer")
    return found


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
