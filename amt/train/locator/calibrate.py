"""The locator's threshold, chosen on frames that it never learned from, and its figures there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from amt.data.letterbox import letterbox
from amt.data.whole_frames import Sample, WholeFrames, compose
from amt.metrics.detections import average_precision, box_iou, false_alarms, matches, recall
from amt.model.locator import FoundHand, Locator

LEAST = 0.05  # of thresholds
MOST_FALSE = 0.005  # share of pictures without a hand in which one may be found
EMPTY_PICTURES = 500
BATCH = 64


def calibrate(locator: Locator, frames: WholeFrames, seed: int) -> dict[str, Any]:
    """Chooses a threshold and scores it.

    The threshold is the one with the best F1 on the frames, of those that find a hand in at most 0.5 % of up to 500 pictures
    without one: background pictures, and the parts of the frames beside their hands.

    Returns:
        ``threshold``; ``recall`` and ``ap50`` of joints' boxes at an overlap of 0.5, on the frames as they are; ``side``, the
        share of found hands whose side is right; ``recall_two``, on pictures that are put together of two frames;
        ``false_alarms``; ``frames``: how many there were.
    """
    width, height = locator.config.width, locator.config.height
    own = [_as_it_is(frames, k, width, height) for k in range(len(frames))]
    empty = [
        compose(frames, width, height, seed, 1, k, empty=1, plain=True)
        for k in range(min(EMPTY_PICTURES, 4 * len(frames)))
    ]
    pairs = [compose(frames, width, height, seed, 2, k, empty=0, plain=True) for k in range(min(len(frames), 256))]
    pairs = [sample for sample in pairs if len(sample.boxes) == 2]
    in_own, in_empty, in_pairs = (_find(locator, samples) for samples in (own, empty, pairs))
    alarms = [max((hand.score for hand in _free(hands, s)), default=0.0) for hands, s in zip(in_empty, empty)]
    least = max(LEAST, float(np.quantile(alarms, 1 - MOST_FALSE, method="higher")) + 1e-4)
    threshold = round(min(max(least, _best_f1(in_own, own)), 0.95), 4)
    sure = [[hand for hand in hands if hand.score >= threshold] for hands in in_own]
    sides = [
        (hand.right >= 0.5) == bool(sample.right[match])
        for hands, sample in zip(sure, own)
        for hand, match in zip(hands, matches(*_boxes(hands), sample.boxes))
        if match >= 0
    ]
    return {
        "threshold": threshold,
        "recall": _scored(recall, in_own, own, threshold),
        "ap50": _scored(average_precision, in_own, own, 0.0),
        "side": float(np.mean(sides)) if sides else float("nan"),
        "recall_two": _scored(recall, in_pairs, pairs, threshold),
        "false_alarms": false_alarms([[a] if a >= threshold else [] for a in alarms]),
        "frames": len(own),
    }


def _as_it_is(frames: WholeFrames, k: int, width: int, height: int) -> Sample:
    image, scale = letterbox(frames.images[k], width, height)
    joints = (frames.joints[k] + 0.5) * scale - 0.5
    return Sample(
        image,
        np.concatenate([joints.min(0), joints.max(0)])[None],
        frames.right[k : k + 1],
        np.zeros((0, 4)),
        np.zeros((height, width), np.uint8),
    )


def _find(locator: Locator, samples: list[Sample]) -> list[list[FoundHand]]:
    """Also those that are hardly likely."""
    device, found = next(locator.parameters()).device, []
    for start in range(0, len(samples), BATCH):
        images = np.stack([sample.image for sample in samples[start : start + BATCH]])
        found += locator.find(torch.from_numpy(images).permute(0, 3, 1, 2).to(device), LEAST)
    return found


def _free(hands: list[FoundHand], sample: Sample) -> list[FoundHand]:
    """Those that are not at a hand of which only a part is in the picture."""
    if not len(sample.ignored):
        return hands
    return [hand for hand in hands if box_iou(np.array(hand.box), sample.ignored).max() < 0.1]


def _boxes(hands: list[FoundHand]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([hand.box for hand in hands]).reshape(-1, 4), np.array([hand.score for hand in hands])


def _scored(figure, found: list[list[FoundHand]], samples: list[Sample], threshold: float) -> float:
    boxes = [_boxes([hand for hand in _free(hands, s) if hand.score >= threshold]) for hands, s in zip(found, samples)]
    return figure([b for b, _ in boxes], [s for _, s in boxes], [sample.boxes for sample in samples])


def _best_f1(found: list[list[FoundHand]], samples: list[Sample]) -> float:
    """The middle of the thresholds with the best F1."""
    scores, right = [], []
    for hands, sample in zip(found, samples):
        scores += [hand.score for hand in hands]
        right += (matches(*_boxes(hands), sample.boxes) >= 0).tolist()
    if not any(right):
        return LEAST
    scores, right, total = np.array(scores), np.array(right), sum(len(sample.boxes) for sample in samples)
    grid = np.linspace(LEAST, 0.95, 91)
    f1 = [2 * (right & (scores >= t)).sum() / max((scores >= t).sum() + total, 1) for t in grid]
    best = grid[np.isclose(f1, max(f1))]
    return float((best[0] + best[-1]) / 2)
