"""How well hands are found in pictures: intersection over union, average precision, recall, false alarms. Pure NumPy.

A box is (left, top, right, bottom) in px: the tight box of a hand's 21 joints, those outside the picture included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [N, M]: the area that boxes [N, 4] and [M, 4] share, over the area that they cover together."""
    a, b = (np.asarray(x, np.float64).reshape(-1, 4) for x in (a, b))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


def matches(found: np.ndarray, scores: np.ndarray, true: np.ndarray, iou: float = 0.5) -> np.ndarray:
    """int64 [N]: the true box that each found box stands for, -1 for none. The surest choose first; each true box is taken once.

    As in PASCAL VOC, a found box stands for the true box that it overlaps most, of those that are still free.

    Args:
        found: [N, 4], px; scores: [N]; true: [M, 4], px.
        iou: the least overlap.
    """
    overlap = box_iou(found, true)
    chosen = np.full(len(overlap), -1, np.int64)
    for k in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        if overlap.shape[1] and overlap[k].max() >= iou:
            chosen[k] = overlap[k].argmax()
            overlap[:, chosen[k]] = -1
    return chosen


def average_precision(
    found: Sequence[np.ndarray], scores: Sequence[np.ndarray], true: Sequence[np.ndarray], iou: float = 0.5
) -> float:
    """Area under the precision-recall curve over all pictures, precision made monotonic (all points, as VOC 2010 and later).

    Args:
        found, scores, true: a picture's boxes [N, 4], their scores [N] and its hands' boxes [M, 4], for each picture.

    Returns:
        0-1; NaN where no picture has a hand.
    """
    count = sum(len(boxes) for boxes in true)
    if not count:
        return float("nan")
    right = [matches(*picture, iou) >= 0 for picture in zip(found, scores, true)]
    every = np.concatenate([np.asarray(s, np.float64) for s in scores])
    hits = np.cumsum(np.concatenate(right)[np.argsort(-every, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((np.diff(hits, prepend=0) * precision).sum() / count)


def recall(
    found: Sequence[np.ndarray], scores: Sequence[np.ndarray], true: Sequence[np.ndarray], iou: float = 0.5
) -> float:
    """The share of all hands that are found; NaN where there is none. Arguments as for :func:`average_precision`."""
    count = sum(len(boxes) for boxes in true)
    hits = sum(int((matches(*picture, iou) >= 0).sum()) for picture in zip(found, scores, true))
    return hits / count if count else float("nan")


def false_alarms(scores: Sequence[np.ndarray]) -> float:
    """The share of pictures without a hand in which something was found; NaN where there is no picture."""
    return float(np.mean([len(s) > 0 for s in scores])) if len(scores) else float("nan")
