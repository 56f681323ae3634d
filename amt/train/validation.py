"""How good the model is on frames that it never learns from, while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amt.data.loader import Loader
from amt.hand.batch import Batch
from amt.metrics import absolute_error_mm, adds_mm, procrustes_error_mm, spread_ratio, wrist_aligned_error_mm
from amt.model.attention_entropy import attention_entropy
from amt.model.outputs import Prediction
from amt.model.scene import posed_points
from amt.train import ranks
from amt.train.parallelize import at_least_one

if TYPE_CHECKING:
    from amt.train.trainer import Trainer

ENTROPY = "attention_entropy/"  # of a layer, nats
FEW = 8  # images whose attention is looked at
JOINT_ERRORS = {
    "wrist_aligned_mm": wrist_aligned_error_mm,
    "procrustes_mm": procrustes_error_mm,
    "absolute_mm": absolute_error_mm,
}

Figures = dict[str, float]


@torch.no_grad()
def validate(trainer: Trainer, loader: Loader) -> Figures:
    """The loss and the field's figures over the frames of all ranks, by the model as it is, in evaluation mode.

    ``loss``; ``wrist_aligned_mm``, ``procrustes_mm`` and ``absolute_mm`` (means over joints), ``adds_mm``, ``contact_f1``,
    ``spread`` (of predictions over that of labels); ``attention_entropy/<layer>`` of the first images. A figure without a
    labelled sample is left out. With several ranks the figures are those of one process, to rounding.

    Args:
        loader: of this rank's share of each batch. Every rank has the same number of batches.
    """
    parts: list[dict[str, Tensor]] = []
    losses: list[tuple[float, int]] = []  # of each batch of all ranks, and how many of its frames are here
    entropies: tuple[Figures, int] | None = None  # of the first images that are here, and how many these are
    for batch in loader:
        batch = batch.to(trainer.device)
        if entropies is None:
            first = batch.inputs[: max(1, len(range(ranks.number(), FEW, ranks.size())))]
            entropies = _numbers(attention_entropy(trainer.model, at_least_one(first))), first.batch_size
        loss, prediction = trainer.loss(batch, trainer.step)
        losses.append((float(loss.total), len(batch.index)))
        parts.append(_rows(prediction, batch))
    if not parts:
        return {}
    shares = ranks.gathered((_joined(parts), losses, entropies))
    rows, losses, entropies = ([share[i] for share in shares] for i in range(3))
    of_batches = [(batch[0][0], sum(count for _, count in batch)) for batch in zip(*losses)]
    looked = {name: [(values[name], count) for values, count in entropies if count] for name in entropies[0][0]}
    figures = {"loss": _mean(of_batches), **_figures(_joined(rows))}
    return figures | {ENTROPY + name: _mean(values) for name, values in looked.items()}


def _rows(p: Prediction, batch: Batch) -> dict[str, Tensor]:
    """What the figures are made of, on the CPU: a row for each labelled frame, and counts of contacts."""
    t, points = batch.targets, batch.inputs.object_points
    hand, both, contact = t.hand_valid, t.hand_valid & t.object_valid, t.contact_valid
    joints, true = p.joints[hand].cpu(), t.joints[hand].cpu()
    posed = p.decoded.posed(points)[both].cpu()
    answers, touched = p.hand_contact[contact] > 0, t.hand_contact[contact]
    return {
        "joints": joints,
        "true_joints": true,
        **{name: error(joints, true).mean(dim=1) for name, error in JOINT_ERRORS.items()},
        "adds_mm": adds_mm(posed, posed_points(points, t.object_rotation, t.object_translation)[both].cpu())[0],
        "contact": torch.stack([x.sum() for x in (contact, answers & touched, answers, touched)])[None].cpu(),
    }


def _figures(rows: dict[str, Tensor]) -> Figures:
    figures = {name: float(rows[name].mean()) for name in (*JOINT_ERRORS, "adds_mm") if len(rows[name])}
    if len(rows["joints"]) > 1:
        figures["spread"] = float(spread_ratio(rows["joints"], rows["true_joints"]).mean())
    frames, hits, answers, touched = rows["contact"].sum(dim=0).tolist()
    if frames:
        figures["contact_f1"] = 2 * hits / max(1, answers + touched)
    return figures


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _numbers(values: dict[str, Tensor]) -> Figures:
    return {name: float(value) for name, value in values.items()}


def _mean(pairs: list[tuple[float, int]]) -> float:
    """Of values and how often each counts."""
    return sum(value * count for value, count in pairs) / sum(count for _, count in pairs)


def validation_line(step: int, steps: int, figures: Figures, best: bool) -> str:
    """One line for people."""
    shown = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items() if "/" not in name]
    layers = {name.removeprefix(ENTROPY): value for name, value in figures.items() if name.startswith(ENTROPY)}
    if layers:
        least = min(layers, key=layers.get)
        shown.append(f"least attention entropy {layers[least]:.2f} nats ({least})")
    return "  ".join([f"step {step}/{steps}", "validation", *shown, *(["best so far"] if best else [])])
