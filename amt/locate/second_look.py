"""The second look of a locator of two stages: crops of the full picture around what the first stage proposes.

Each proposal is looked at three times, each time in the square around the box that the look before gave. The first looks bring
the box to the hand and drop what is unlikely or has become one with another box. The last one sees two squares, a smaller and
a larger one, and the mirror image of each; the mean of all four gives the score, the side and the box. A hand whose side is then
in doubt is looked at in two turned squares, which have their share in its side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from amt.data.crops import cut, square_around
from amt.model.locator import FoundHand, apart
from amt.model.verifier import SCALE, SIZE, Verifier

LOOKS = 3
# Least objectness of what is looked at. 0.05, from which on the first stage's mistakes are trained on, finds as many hands of 512
# frames and of 151 pictures of two hands, and asks for 6.4 crops a picture instead of 2.4 (docs/log.md, 29 November).
LOOKED_AT = 0.2
UNLIKELY = 0.02  # probability of a hand, below which a proposal is dropped before the last look
ZOOMS = (0.85, 1.2)  # of the last look's squares
DOUBT = 2.0  # a side's logit, below which turned squares are looked at
TURNS = (-20.0, 20.0)  # degrees
LIKELY = 0.3  # least probability of a hand for that
MOST_CROPS = 64  # at once


def verify(verifier: Verifier, images: Sequence[np.ndarray], proposals: Sequence[np.ndarray]) -> list[list[FoundHand]]:
    """The hands of each picture in its own px, the surest first, whatever their scores.

    Args:
        images: uint8 [H, W, 3], RGB, of any sizes.
        proposals: float64 [N, 4] of each picture, px: left, top, right, bottom.
    """
    found = [[FoundHand(tuple(box), 1.0, 0.5) for box in np.reshape(boxes, (-1, 4)).tolist()] for boxes in proposals]
    for look in range(LOOKS):
        last = look == LOOKS - 1
        which = [picture for picture, hands in enumerate(found) for _ in hands]
        if not which:
            break
        boxes = np.array([hand.box for hands in found for hand in hands])
        seen: list[list[FoundHand]] = [[] for _ in images]
        for picture, score, right, box in zip(which, *_look(verifier, images, which, boxes, last)):
            if last or score >= UNLIKELY:
                seen[picture].append(FoundHand(tuple(box), score, right))
        found = [apart(sorted(hands, key=lambda hand: -hand.score)) for hands in seen]
    return _turned(verifier, images, found)


@torch.inference_mode()
def _look(verifier: Verifier, images: Sequence[np.ndarray], which: list[int], boxes: np.ndarray, last: bool):
    """Lists of probabilities of a hand and of a right one, and of boxes (px of the pictures), one an entry of ``which``."""
    zooms = np.array(ZOOMS if last else (1.0,))
    squares = np.stack([square_around(box.reshape(2, 2), SCALE) for box in boxes])
    scale = zooms[:, None] * squares[:, 2] / SIZE  # [zooms, boxes], px of the picture per px of the crop
    start = squares[:, :2] - scale[..., None] * (SIZE - 1) / 2  # where the crop's first px lies
    device, said = next(verifier.parameters()).device, []
    views = list(np.ndindex(scale.shape))
    for first in range(0, len(views), MOST_CROPS):
        crops = [_crop(images[which[view[1]]], start[view], scale[view]) for view in views[first : first + MOST_CROPS]]
        said.append(verifier.judge(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(device), last))
    hand, right, inside = (torch.cat(parts).double().cpu().unflatten(0, scale.shape) for parts in zip(*said))
    found = (inside.numpy() * scale[..., None] + np.tile(start, 2)).mean(0)
    hand, right = (p.logit(1e-6).mean(0).sigmoid().tolist() for p in (hand, right))
    return hand, right, found.tolist()


@torch.inference_mode()
def _turned(verifier: Verifier, images: Sequence[np.ndarray], found: list[list[FoundHand]]) -> list[list[FoundHand]]:
    """The same hands; sides in doubt are the mean over the last look and one at turned squares."""
    places = [(k, n) for k, hands in enumerate(found) for n, hand in enumerate(hands) if hand.score >= LIKELY]
    places = [(k, n) for k, n in places if abs(_logit(found[k][n].right)) < DOUBT]
    device, per = next(verifier.parameters()).device, MOST_CROPS // len(TURNS)
    for first in range(0, len(places), per):
        part = places[first : first + per]
        squares = [square_around(np.reshape(found[k][n].box, (2, 2)), SCALE) for k, n in part]
        crops = [_turn(images[k], square, angle) for (k, _), square in zip(part, squares) for angle in TURNS]
        _, right, _ = verifier.judge(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(device))
        said = right.double().cpu().logit(1e-6).unflatten(0, (len(part), -1)).mean(1).tolist()
        for (k, n), turned in zip(part, said):
            mean = (_logit(found[k][n].right) + turned) / 2
            found[k][n] = found[k][n]._replace(right=1 / (1 + float(np.exp(-mean))))
    return found


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return float(np.log(p / (1 - p)))


def _turn(image: np.ndarray, square: np.ndarray, angle: float) -> np.ndarray:
    """uint8 [80, 80, 3]: a square (cx, cy, side; px), turned about its middle by so many degrees."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    linear = SIZE / square[2] * np.array(((cos, -sin), (sin, cos)))
    return cut(image, np.column_stack((linear, (SIZE - 1) / 2 - linear @ square[:2])), SIZE)


def _crop(image: np.ndarray, start: np.ndarray, scale: float) -> np.ndarray:
    """uint8 [80, 80, 3]; what lies beyond the picture is black."""
    warp = np.array(((1 / scale, 0, -start[0] / scale), (0, 1 / scale, -start[1] / scale)))
    return cut(image, warp, SIZE)
