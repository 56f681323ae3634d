"""How good the model is on frames that it never learns from, while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amt.data.loader import Loader
from amt.metrics import absolute_error_mm, adds_mm, f1, procrustes_error_mm, spread_ratio, wrist_aligned_error_mm
from amt.model.attention_entropy import attention_entropy
from amt.model.scene import posed_points

if TYPE_CHECKING:
    from amt.train.trainer import Trainer

ENTROPY = "attention_entropy/"  # of a layer, nats
FEW = 8  # images whose attention is looked at


@torch.no_grad()
def validate(trainer: Trainer, loader: Loader) -> dict[str, float]:
    """The loss and the field's figures over a loader, by the model as it is, in evaluation mode.

    ``loss``; ``wrist_aligned_mm``, ``procrustes_mm`` and ``absolute_mm`` (means over joints), ``adds_mm``, ``contact_f1``,
    ``spread`` (of predictions over that of labels); ``attention_entropy/<layer>`` of the first images. A figure without a
    labelled sample is left out.
    """
    parts: list[dict[str, Tensor]] = []
    losses: list[tuple[float, int]] = []
    entropies: dict[str, Tensor] = {}
    for batch in loader:
        batch = batch.to(trainer.device)
        if not entropies:
            entropies = attention_entropy(trainer.model, batch.inputs[:FEW])
        loss, p = trainer.loss(batch, trainer.step)
        losses.append((float(loss.total), len(batch.index)))
        t, points = batch.targets, batch.inputs.object_points
        part = {
            "joints": p.joints,
            "true_joints": t.joints,
            "points": p.decoded.posed(points),
            "true_points": posed_points(points, t.object_rotation, t.object_translation),
            "contact": p.hand_contact > 0,
            "true_contact": t.hand_contact,
            "hand": t.hand_valid,
            "both": t.hand_valid & t.object_valid,
            "contact_valid": t.contact_valid,
        }
        parts.append({name: value.cpu() for name, value in part.items()})
    if not parts:
        return {}
    figures = {"loss": sum(loss * count for loss, count in losses) / sum(count for _, count in losses)}
    figures |= _scores({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return figures | {ENTROPY + name: float(value) for name, value in entropies.items()}


def _scores(c: dict[str, Tensor]) -> dict[str, float]:
    figures = {}
    if c["hand"].any():
        joints, true = c["joints"][c["hand"]], c["true_joints"][c["hand"]]
        figures["wrist_aligned_mm"] = float(wrist_aligned_error_mm(joints, true).mean())
        figures["procrustes_mm"] = float(procrustes_error_mm(joints, true).mean())
        figures["absolute_mm"] = float(absolute_error_mm(joints, true).mean())
        if len(joints) > 1:
            figures["spread"] = float(spread_ratio(joints, true).mean())
    if c["both"].any():
        figures["adds_mm"] = float(adds_mm(c["points"][c["both"]], c["true_points"][c["both"]])[0].mean())
    if c["contact_valid"].any():
        figures["contact_f1"] = f1(c["contact"][c["contact_valid"]], c["true_contact"][c["contact_valid"]])
    return figures


def validation_line(step: int, steps: int, figures: dict[str, float], best: bool) -> str:
    """One line for people."""
    shown = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items() if "/" not in name]
    layers = {name.removeprefix(ENTROPY): value for name, value in figures.items() if name.startswith(ENTROPY)}
    if layers:
        least = min(layers, key=layers.get)
        shown.append(f"least attention entropy {layers[least]:.2f} nats ({least})")
    return "  ".join([f"step {step}/{steps}", "validation", *shown, *(["best so far"] if best else [])])
