"""What the locator's maps should be, and how far they are from it.

Objectness: the focal loss of CornerNet (Law and Deng, 2018), whose negatives weigh less near a hand's middle. Skin: cross-entropy
with the share of a cell that is a hand's. In the cells around each middle and on the hand, side has a cross-entropy, offset and
size have L1. A hand's middle is one cell of 432; what all its cells say makes training several times as quick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.tensors import TensorFields
from amt.model.locator import STRIDE, LocatorMaps

AROUND = 1.5  # cells from the middle in which side, offset and size are learned
SIDE, OFFSET, SIZE, SKIN = 0.5, 0.5, 1.0, 2.0  # weights of the terms beside objectness
ON_HAND = 0.3  # share of a cell from which on the cell is on the hand
SEEN = 8.0  # weight of a cell that is all hand, of one without: 1


@dataclass(frozen=True)
class LocatorTargets(TensorFields):
    """For pictures in h x w cells."""

    heat: Tensor  # float32 [B, h, w]: 1 in the cell of a middle, a Gaussian around it, 0 elsewhere
    counted: Tensor  # bool [B, h, w]: False where nobody says whether a hand is there
    known: Tensor  # bool [B, h, w]: the cells around a middle
    right: Tensor  # float32 [B, h, w]
    place: Tensor  # float32 [B, 4, h, w]: offset x, y (cells), log of width and height (cells)
    skin: Tensor  # float32 [B, h, w]: the share of the cell that is a hand's


def make_targets(boxes: np.ndarray, right: np.ndarray, ignored: np.ndarray, skin: np.ndarray) -> tuple[np.ndarray, ...]:
    """The fields of :class:`LocatorTargets` for one picture, as arrays without B.

    Args:
        boxes: [M, 4], px: left, top, right, bottom; right: bool [M]; ignored: [K, 4], px.
        skin: uint8 [height, width]: 255 where a hand is seen.
    """
    h, w = skin.shape[0] // STRIDE, skin.shape[1] // STRIDE
    share = skin.reshape(h, STRIDE, w, STRIDE).mean((1, 3), dtype=np.float32) / 255
    y, x = np.mgrid[:h, :w].astype(np.float32)
    heat, counted, known = np.zeros((h, w), np.float32), np.ones((h, w), bool), np.zeros((h, w), bool)
    side, place = np.zeros((h, w), np.float32), np.zeros((4, h, w), np.float32)
    nearest = np.full((h, w), np.inf, np.float32)
    for left, top, far, bottom in (ignored + 0.5) / STRIDE:
        counted &= ~((x + 1 > left) & (x < far) & (y + 1 > top) & (y < bottom))
    for (left, top, far, bottom), is_right in zip((boxes + 0.5) / STRIDE, right):
        middle, size = ((left + far) / 2, (top + bottom) / 2), np.maximum((far - left, bottom - top), 0.25)
        cell = np.clip(np.floor(middle), 0, (w - 1, h - 1)).astype(int)
        squared = (x - cell[0]) ** 2 + (y - cell[1]) ** 2
        spread = np.clip(0.1 * size.max(), 0.6, 2.0)
        heat = np.maximum(heat, np.exp(-squared / (2 * spread**2)))
        counted[cell[1], cell[0]] = True
        on_hand = (share > ON_HAND) & (x + 0.5 > left) & (x + 0.5 < far) & (y + 0.5 > top) & (y + 0.5 < bottom)
        mine = ((squared <= AROUND**2) | on_hand) & (squared < nearest)
        nearest[mine] = squared[mine]
        known |= mine
        side[mine] = float(is_right)
        for row, value in enumerate((middle[0] - 0.5 - x, middle[1] - 0.5 - y, *np.log(size))):
            place[row][mine] = value[mine] if isinstance(value, np.ndarray) else value
    return heat, counted, known, side, place, share


def locator_loss(maps: LocatorMaps, targets: LocatorTargets) -> dict[str, Tensor]:
    """The terms, and "loss": their weighted sum. A batch without a hand has the objectness term alone."""
    at = targets.heat >= 1
    logits, p = maps.objectness, maps.objectness.sigmoid()
    positive = -F.logsigmoid(logits) * (1 - p) ** 2
    negative = -F.logsigmoid(-logits) * p**2 * (1 - targets.heat) ** 4
    hands = at.sum().clamp(min=1)
    objectness = (torch.where(at, positive, negative) * targets.counted).sum() / hands
    known, cells = targets.known, targets.known.sum().clamp(min=1)
    side = (F.binary_cross_entropy_with_logits(maps.side, targets.right, reduction="none") * known).sum() / cells
    error = (torch.cat((maps.offset, maps.size), 1) - targets.place).abs() * known[:, None]
    offset, size = error[:, :2].sum() / cells, error[:, 2:].sum() / cells
    weight = 1 + (SEEN - 1) * targets.skin
    seen = F.binary_cross_entropy_with_logits(maps.skin, targets.skin, weight, reduction="mean")
    total = objectness + SIDE * side + OFFSET * offset + SIZE * size + SKIN * seen
    terms = {"objectness": objectness, "side": side, "offset": offset, "size": size, "skin": seen}
    return {"loss": total, **{name: term.detach() for name, term in terms.items()}}
