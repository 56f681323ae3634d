"""The locator's threshold, chosen on frames that it never learned from, and its figures there."""

from __future__ import annotations

from typing import Any

import numpy as np

from amt.data.whole_frames import HEIGHT, WIDTH, Sample, WholeFrames, compose
from amt.locate import ModelLocator
from amt.metrics.detections import average_precision, box_iou, false_alarms, matches, recall
from amt.model.locator import FoundHand, Locator

LEAST = 0.05  # of thresholds
MOST_FALSE = 0.005  # share of pictures without a hand in which one may be found
EMPTY_PICTURES = 500
BATCH = 64


def calibrate(locator: Locator, frames: WholeFrames, seed: int, threshold: float | None = None) -> dict[str, Any]:
    """Chooses a threshold and scores it.

    The threshold is the one with the best F1 on the frames, of those that find a hand in at most 0.5 % of up to 500 pictures
    without one: background pictures, and the parts of the frames beside their hands.

    Args:
        threshold: scored as it is; None: chosen.

    Returns:
        ``threshold``; ``recall`` and ``ap50`` of joints' boxes at an overlap of 0.5, on the frames as they are; ``side``, the
        share of found hands whose side is right; ``false_boxes``, boxes a frame that are at no hand; ``recall_two`` and
        ``side_two``, on pictures that are put together of two frames; ``false_alarms``; ``frames``: how many there were.
    """
    own = [_as_it_is(frames, k) for k in range(len(frames))]
    empty = [
        compose(frames, WIDTH, HEIGHT, seed, 1, k, empty=1, plain=True)
        for k in range(min(EMPTY_PICTURES, 4 * len(frames)))
    ]
    pairs = [compose(frames, WIDTH, HEIGHT, seed, 2, k, empty=0, plain=True) for k in range(min(len(frames), 256))]
    pairs = [sample for sample in pairs if len(sample.boxes) == 2]
    in_own, in_empty, in_pairs = (_find(locator, samples) for samples in (own, empty, pairs))
    alarms = [max((hand.score for hand in _free(hands, s)), default=0.0) for hands, s in zip(in_empty, empty)]
    if threshold is None:
        least = max(LEAST, float(np.quantile(alarms, 1 - MOST_FALSE, method="higher")) + 1e-4)
        threshold = round(min(max(least, _best_f1(in_own, own)), 0.95), 4)
    sure = [[hand for hand in hands if hand.score >= threshold] for hands in in_own]
    missed = sum(int((matches(*_boxes(hands), sample.boxes) < 0).sum()) for hands, sample in zip(sure, own))
    return {
        "threshold": threshold,
        "recall": _scored(recall, in_own, own, threshold),
        "ap50": _scored(average_precision, in_own, own, 0.0),
        "side": _sides(in_own, own, threshold),
        "false_boxes": missed / len(own),
        "recall_two": _scored(recall, in_pairs, pairs, threshold),
        "side_two": _sides(in_pairs, pairs, threshold),
        "false_alarms": false_alarms([[a] if a >= threshold else [] for a in alarms]),
        "frames": len(own),
    }


def _as_it_is(frames: WholeFrames, k: int) -> Sample:
    joints, nothing = frames.joints[k], np.zeros((HEIGHT, WIDTH), np.uint8)
    box = np.concatenate([joints.min(0), joints.max(0)])[None]
    return Sample(frames.images[k], box, frames.right[k : k + 1], np.zeros((0, 4)), nothing)


def _find(locator: Locator, samples: list[Sample]) -> list[list[FoundHand]]:
    """Also those that are hardly likely."""
    finder, found = ModelLocator(locator, device=next(locator.parameters()).device, threshold=LEAST), []
    for start in range(0, len(samples), BATCH):
        for hands in finder.locate_many([sample.image for sample in samples[start : start + BATCH]]):
            right = [hand.side_score if hand.side == "right" else 1 - hand.side_score for hand in hands]
            found.append([FoundHand(tuple(hand.tight), hand.score, p) for hand, p in zip(hands, right)])
    return found


def _sides(found: list[list[FoundHand]], samples: list[Sample], threshold: float) -> float:
    """The share of found hands whose side is right; NaN where none is found."""
    told = []
    for hands, sample in zip(found, samples):
        sure = [hand for hand in hands if hand.score >= threshold]
        for hand, match in zip(sure, matches(*_boxes(sure), sample.boxes)):
            if match >= 0:
                told.append((hand.right >= 0.5) == bool(sample.right[match]))
    return float(np.mean(told)) if told else float("nan")


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
