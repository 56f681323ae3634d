"""Runs a model over a loader and scores its predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from amt.hand.batch import Batch
from amt.metrics import (
    absolute_error_mm,
    adds_mm,
    f1,
    procrustes_error_mm,
    spread_ratio,
    wrist_aligned_error_mm,
)
from amt.model import AMT
from amt.model.mean_pose import MeanPose
from amt.model.scene import posed_points


@dataclass
class Collected:
    """Predictions, labels and the baseline's answers of a subset, on the CPU."""

    joints: Tensor  # [N, 21, 3], m
    coarse_joints: Tensor
    decoded_joints: Tensor
    refined_joints: Tensor  # [N, S, 21, 3]
    object_points: Tensor  # [N, P, 3], m: at the predicted pose
    hand_contact: Tensor  # bool [N, V]
    object_contact: Tensor  # bool [N, P]
    baseline_joints: Tensor
    baseline_points: Tensor
    true_joints: Tensor
    true_points: Tensor
    true_hand_contact: Tensor
    true_object_contact: Tensor
    hand_valid: Tensor  # bool [N]
    object_valid: Tensor
    contact_valid: Tensor


@torch.no_grad()
def collect(model: AMT, batches: Iterable[Batch], mean_pose: MeanPose, device: torch.device | str = "cpu") -> Collected:
    """Predictions, labels and the baseline's answers of all ``batches``; the model is put into evaluation mode."""
    model.eval()
    parts = []
    for batch in batches:
        inputs, targets = batch.inputs, batch.targets
        p = model(inputs.to(device)).to("cpu")
        joints, rotation, translation = mean_pose.predict(inputs)
        points = inputs.object_points
        parts.append(
            Collected(
                joints=p.joints,
                coarse_joints=p.coarse.joints,
                decoded_joints=p.unrefined.joints,
                refined_joints=p.steps,
                object_points=p.decoded.posed(points),
                hand_contact=p.hand_contact > 0,
                object_contact=p.object_contact > 0,
                baseline_joints=joints,
                baseline_points=posed_points(points, rotation, translation),
                true_joints=targets.joints,
                true_points=posed_points(points, targets.object_rotation, targets.object_translation),
                true_hand_contact=targets.hand_contact,
                true_object_contact=targets.object_contact,
                hand_valid=targets.hand_valid,
                object_valid=targets.object_valid,
                contact_valid=targets.contact_valid,
            )
        )
    if not parts:
        raise ValueError("there is nothing to evaluate: the loader gave no batch")
    return Collected(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Collected)})


def score(c: Collected, mean_pose: MeanPose) -> dict[str, Any]:
    """All figures, the baseline's under "baseline". A figure without a valid sample is left out."""
    result: dict[str, Any] = {"frames": len(c.joints), "hands": int(c.hand_valid.sum())}
    base: dict[str, Any] = {}
    if c.hand_valid.any():
        hand, true = c.hand_valid, c.true_joints[c.hand_valid]
        for name, error in _HAND_ERRORS.items():
            result[name] = float(error(c.joints[hand], true).mean())
            base[name] = float(error(c.baseline_joints[hand], true).mean())
        stages = {"coarse": c.coarse_joints, "decoded": c.decoded_joints}
        for name, joints in stages.items():
            result[f"{name}_wrist_aligned_mpjpe_mm"] = float(wrist_aligned_error_mm(joints[hand], true).mean())
        result["refined_wrist_aligned_mpjpe_mm"] = [
            float(wrist_aligned_error_mm(joints[hand], true).mean()) for joints in c.refined_joints.unbind(1)
        ]
        ratios = spread_ratio(c.joints[hand], true)
        result["spread_ratio"] = float(ratios.mean())
        result["spread_ratio_per_joint"] = [round(float(r), 4) for r in ratios]
        base["spread_ratio"] = float(spread_ratio(c.baseline_joints[hand], true).mean())
    both = c.hand_valid & c.object_valid
    if both.any():
        result["adds_mm"], result["adi_mm"] = (
            float(v.mean()) for v in adds_mm(c.object_points[both], c.true_points[both])
        )
        base["adds_mm"], base["adi_mm"] = (
            float(v.mean()) for v in adds_mm(c.baseline_points[both], c.true_points[both])
        )
    if c.contact_valid.any():
        touched = c.true_hand_contact[c.contact_valid]
        result["contact_f1"] = f1(c.hand_contact[c.contact_valid], touched)
        result["object_contact_f1"] = f1(c.object_contact[c.contact_valid], c.true_object_contact[c.contact_valid])
        base["contact_f1"] = f1(mean_pose.hand_contact.expand_as(touched), touched)
        base["contact_f1_always_yes"] = f1(torch.ones_like(touched), touched)
        base["contact_f1_always_no"] = f1(torch.zeros_like(touched), touched)
        on_object = c.true_object_contact[c.contact_valid]
        base["object_contact_f1_always_yes"] = f1(torch.ones_like(on_object), on_object)
    return {**result, "baseline": base}


_HAND_ERRORS = {
    "wrist_aligned_mpjpe_mm": wrist_aligned_error_mm,
    "procrustes_mpjpe_mm": procrustes_error_mm,
    "absolute_mpjpe_mm": absolute_error_mm,
}
