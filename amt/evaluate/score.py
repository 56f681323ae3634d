"""From samples to figures: means over all, and tables by joint, object, camera and person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amt import metrics
from amt.evaluate.collect import OBJECT, Beliefs, Errors, Samples
from amt.hand.skeleton import JOINT_NAMES
from amt.metrics.calibration import LEVELS

# figure, and the field of Errors that it is the mean of
HAND = {
    "wrist_aligned_mpjpe_mm": "aligned_mm",
    "procrustes_mpjpe_mm": "procrustes_mm",
    "absolute_mpjpe_mm": "absolute_mm",
}
MESH = ("absolute_mpvpe_mm", "wrist_aligned_mpvpe_mm", "procrustes_mpvpe_mm")
F_SCORES = ("f5", "f15", "procrustes_f5", "procrustes_f15")


def score(s: Samples, beliefs: Beliefs | None = None, places: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """All figures, the mean pose's under "baseline". A figure without a valid sample is left out.

    Args:
        beliefs: what the model says of its own certainty, for the figures of calibration.
        places: names by sample, for the tables: "object", "camera" and "subject".
    """
    result: dict[str, Any] = {"frames": len(s), "hands": int(s.hand_valid.sum())}
    found = s.hand_valid & ~s.missed
    result |= _hand_figures(s.model, found) | _object_figures(s.model, s.object_valid & ~s.missed)
    if s.hand_valid.any():
        result["recall"] = float(found.sum() / s.hand_valid.sum())
        for name, field in HAND.items():
            result[name.replace("mpjpe", "mpjpe_p")] = float(getattr(s.model, field)[s.hand_valid].mean(dim=1).mean())
    if found.any():
        stages = [float(column.contiguous().mean()) for column in s.stages_mm[found].unbind(1)]
        result["coarse_wrist_aligned_mpjpe_mm"], result["decoded_wrist_aligned_mpjpe_mm"] = stages[:2]
        result["refined_wrist_aligned_mpjpe_mm"] = stages[2:]
        if found.sum() > 1:  # a single hand has no spread
            ratios = metrics.spread_ratio(s.joints[found], s.true_joints[found])
            result["spread_ratio"] = float(ratios.mean())
            result["spread_ratio_per_joint"] = [round(float(r), 4) for r in ratios]
        result["joints"] = _by_joint(s, found)
    result |= _contact_figures(s.model, s.contact_valid)
    if beliefs is not None:
        result["calibration"] = calibration(beliefs)
    for name, values in (places or {}).items():
        result.setdefault("by", {})[name] = _by_group(s, values)
    return {**result, "baseline": _baseline(s)}


def movement(s: Samples, places: Mapping[str, list[str]]) -> dict[str, float]:
    """Acceleration error (mm a frame squared) and lag (frames) over every run of frames of one camera without a gap.

    Joints count relative to their wrists. Runs of fewer than three frames have no acceleration, still or short ones no lag.
    """
    runs = _runs(s, places)
    errors, lags, lengths = [], [], []
    for run in runs:
        a, b = (x[run] - x[run][:, :1] for x in (s.joints, s.true_joints))
        if len(run) > 2:
            errors.append(metrics.acceleration_error_mm(a, b).flatten())
        lag = metrics.lag_frames(a, b)
        if lag == lag:
            lags.append(lag * len(run))
            lengths.append(len(run))
    figures = {"acceleration_error_mm": float(torch.cat(errors).mean())} if errors else {}
    return figures | ({"lag_frames": sum(lags) / sum(lengths)} if lags else {})


def _runs(s: Samples, places: Mapping[str, list[str]]) -> list[list[int]]:
    """Places of the labelled, found hands that follow each other in one sequence and camera."""
    keys = zip(places["subject"], places["sequence"], places["camera"], map(int, places["frame"]))
    usable = (s.hand_valid & ~s.missed).tolist()
    runs: list[list[int]] = []
    before = None
    for place, key in sorted(((k, key) for k, key in enumerate(keys) if usable[k]), key=lambda pair: pair[1]):
        if before is not None and key[:3] == before[:3] and key[3] == before[3] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
        before = key
    return runs


def calibration(beliefs: Beliefs) -> dict[str, Any]:
    """Expected calibration errors, 0-1: of contact, of visibility, and of each joint's scale.

    ``visibility_accuracy`` is the share of joints that are rightly called visible or hidden; "always visible" would have
    ``visible_share``.
    """
    result: dict[str, Any] = {}
    if beliefs.contact.count.sum():
        result["contact_ece"] = beliefs.contact.ece
    if beliefs.visible is not None and beliefs.visible.count.sum():
        result["visibility_ece"] = beliefs.visible.ece
        for figure, name in (("visibility_accuracy", "visibility"), ("visible_share", "visible")):
            result[figure] = float(torch.tensor(beliefs.sums.mean(name)).mean())
    if beliefs.sums.count("coverage"):
        off = (torch.tensor(beliefs.sums.mean("coverage"), dtype=torch.float64) - LEVELS[:, None]).abs().mean(dim=0)
        result["scale_ece"] = float(off.mean())
        result["scale_ece_per_joint"] = [round(float(x), 4) for x in off]
    return result


def _hand_figures(e: Errors, chosen: Tensor) -> dict[str, float]:
    if not chosen.any():
        return {}
    figures = {name: float(getattr(e, field)[chosen].mean(dim=1).mean()) for name, field in HAND.items()}
    figures |= {name.replace("mpjpe_mm", "auc"): metrics.auc(getattr(e, field)[chosen]) for name, field in HAND.items()}
    for names, values in ((MESH, e.vertex_mm), (F_SCORES, e.f_score)):
        if values[chosen].isfinite().all():
            figures |= dict(zip(names, values[chosen].mean(dim=0).tolist()))
    return figures


def _object_figures(e: Errors, chosen: Tensor) -> dict[str, float]:
    if not chosen.any():
        return {}
    columns = dict(zip((f"{name}_mm" for name in OBJECT), e.object_mm[chosen].unbind(1)))
    columns |= {"rotation_deg": e.object_deg[chosen], "mspd_px": e.mspd_px[chosen]}
    # NaN: an object whose symmetries nobody knows
    figures = {name: float(x[x.isfinite()].mean()) for name, x in columns.items() if x.isfinite().any()}
    turned = e.object_deg[chosen][e.object_deg[chosen].isfinite()]
    if len(turned):  # found or not at all: the mean says little of either
        figures |= {
            "rotation_median_deg": float(turned.quantile(0.5)),
            "rotation_below_30": float((turned < 30).double().mean()),
        }
    return figures


def _contact_figures(e: Errors, chosen: Tensor) -> dict[str, float]:
    if not chosen.any():
        return {}
    result = {}
    for name, counts in (("contact", e.contact), ("object_contact", e.object_contact), ("touching", e.touching)):
        total = metrics.Counts(*counts[chosen].sum(dim=0).tolist())
        result |= {f"{name}_{figure}": getattr(total, figure) for figure in ("precision", "recall", "f1")}
    _, said, true = e.touching[chosen].unbind(1)
    result["touching_accuracy"] = float((said == true).double().mean())
    return result


def _baseline(s: Samples) -> dict[str, Any]:
    base: dict[str, Any] = _hand_figures(s.baseline, s.hand_valid) | _object_figures(s.baseline, s.object_valid)
    if s.hand_valid.sum() > 1:
        joints, true = s.baseline_joints[s.hand_valid], s.true_joints[s.hand_valid]
        base["spread_ratio"] = float(metrics.spread_ratio(joints, true).mean())
    if s.contact_valid.any():
        counts = _contact_figures(s.baseline, s.contact_valid)
        base |= {name: value for name, value in counts.items() if not name.startswith("object")}
        for name, places in (("contact", s.vertices), ("object_contact", s.points)):
            true = int(getattr(s.model, name)[s.contact_valid][:, 2].sum())
            everything = int(s.contact_valid.sum()) * places
            base[f"{name}_f1_always_yes"] = metrics.Counts(true, everything, true).f1
        base["contact_f1_always_no"] = 0.0
    return base


def _by_joint(s: Samples, chosen: Tensor) -> dict[str, dict[str, float]]:
    rows = {}
    seen_known = chosen & s.visible_known
    for j, joint in enumerate(JOINT_NAMES):
        row = {name: round(float(getattr(s.model, field)[chosen, j].mean()), 4) for name, field in HAND.items()}
        for name, visible in (("visible", True), ("hidden", False)):
            mine = seen_known & (s.visible[:, j] == visible)
            if mine.any():
                row[f"{name}_wrist_aligned_mpjpe_mm"] = round(float(s.model.aligned_mm[mine, j].mean()), 4)
                row[name] = int(mine.sum())
        rows[joint] = row
    return rows


def _by_group(s: Samples, names: list[str]) -> dict[str, dict[str, float]]:
    """A row a name, in the order of the names."""
    rows = {}
    for name in sorted(set(names)):
        mine = torch.tensor([other == name for other in names], dtype=torch.bool)
        row: dict[str, Any] = {"frames": int(mine.sum())}
        hand, held = mine & s.hand_valid & ~s.missed, mine & s.object_valid & ~s.missed
        figures = _hand_figures(s.model, hand) | _object_figures(s.model, held)
        figures |= _contact_figures(s.model, mine & s.contact_valid)
        row |= {key: round(value, 4) for key, value in figures.items() if key in SHOWN}
        rows[name] = row
    return rows


SHOWN = (*HAND, "adds_mm", "rotation_deg", "contact_f1")  # of a row of a table
