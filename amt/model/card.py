"""The model card of a checkpoint: what it is, what it was trained on, how good it is, how to use it. Markdown for the hub."""

from __future__ import annotations

import json
import re
from typing import Any

from amt.hand.skeleton import SHIPPED_HAND

ROWS = (
    ("wrist-aligned MPJPE, mm", "wrist_aligned_mpjpe_mm"),
    ("Procrustes MPJPE, mm", "procrustes_mpjpe_mm"),
    ("absolute MPJPE, mm", "absolute_mpjpe_mm"),
    ("object ADD-S, mm", "adds_mm"),
    ("object rotation, median, degrees", "rotation_median_deg"),
    ("contact F1, hand vertices (mean pose: the best constant mask)", "contact_f1"),
    ("contact F1, object points", "object_contact_f1"),
)
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")  # a name such as Apache-2.0, which the head of a card can hold
HEAD = """---
library_name: amt
pipeline_tag: keypoint-detection
tags:
- hand-pose-estimation
- 6d-object-pose
- contact
---
"""
USE = """```python
import amt

predictor = amt.load({source})  # or amt.model.AMT.from_pretrained for the network alone
hands = predictor(image, intrinsics, object="003_cracker_box")  # every hand that is found
hands[0].joints  # [21, 3] metres in the camera frame: x right, y down, z forward
```"""


def model_card(
    title: str, record: dict[str, Any], metrics: dict[str, Any] | None = None, use: str | None = None
) -> str:
    """The card's text.

    Args:
        title: the name on the hub, or the folder's.
        record: config.json's content.
        metrics: what ``amt.evaluate`` found, metrics.json's content; None where nobody evaluated.
        use: how it is used, in Markdown; None: by ``amt.load``.
    """
    model, data, train = (record.get(name) or {} for name in ("model", "data", "train"))
    parts = [
        _head(record.get("license"), model.get("hand")) + f"\n# {title}",
        "AMT looks at one RGB image of a hand that holds an object, and says in metres where the hand is (21 joints and a mesh), "
        "where the object is (6-DoF), and where they touch.",
        USE.format(source=json.dumps(title, ensure_ascii=False)) if use is None else use,
        "## Model and training",
        _list(
            size=model.get("size"),
            crop=f"{model['crop_size']} px" if "crop_size" in model else None,
            backbone=(model.get("backbone") or {}).get("name"),
            hand="AMT's own" if model.get("hand") == "amt" else "MANO (its files are not part of this repository)",
            layout=data.get("layout"),
            split=data.get("split"),
            steps=record.get("steps"),
            batch=train.get("batch_size"),
        ),
        "## Evaluation",
        "Nobody has evaluated these weights." if metrics is None else _table(metrics),
        "## Limits and licence",
        "One hand and one object an image; the object's shape must be known. "
        + _terms(record.get("license"), model.get("hand")),
    ]
    return "\n\n".join(parts) + "\n"


def _head(licence: Any, hand: Any) -> str:
    """The card's first lines. MANO's terms are no licence that the hub knows: such weights have no line of it."""
    if hand != SHIPPED_HAND or not (isinstance(licence, str) and LICENCE.fullmatch(licence)):
        return HEAD
    return HEAD.replace("---\n", f"---\nlicense: {licence.lower()}\n", 1)


def _terms(licence: Any, hand: Any) -> str:
    if not isinstance(licence, str) or not licence:
        return "Weights that were trained on a data set, or with MANO, stand under its terms as well."
    return f"The weights stand under {licence}" + ("." if hand == SHIPPED_HAND else ", and under MANO's terms as well.")


def _list(**entries: Any) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in entries.items() if value is not None)


def _table(metrics: dict[str, Any]) -> str:
    base = metrics.get("baseline") or {}
    kind, split = metrics.get("data", "unknown"), f"{metrics.get('split', '?')} {metrics.get('subset', '?')}"
    how = f"protocol {metrics.get('protocol', '?')}, {metrics.get('box', '?')} box"
    lines = [f"On {kind} images, split {split}, {how}, {metrics.get('frames', '?')} frames.", ""]
    lines += ["| | this model | mean pose |", "| --- | --- | --- |"]
    lines += [
        f"| {label} | {number(metrics[key])} | {number(base.get(key))} |" for label, key in ROWS if key in metrics
    ]
    return "\n".join(lines)


def number(value: Any) -> str:
    """A figure as a table shows it: thousandths below 2, tenths above; nothing where there is none."""
    if not isinstance(value, (int, float)):
        return ""
    return f"{value:.3f}" if value < 2 else f"{value:.1f}"
