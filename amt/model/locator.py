"""Finds hands in whole pictures: a small convolutional network in the manner of CenterNet (Zhou et al., 2019).

    picture [B, 3, 144, 192] ── features at strides 4, 8 and 16 ── brought together at stride 8 ── for each cell of 18 x 24:
        objectness      is the middle of a hand here? one logit
        side            of a right hand, against a left one: one logit
        skin            is most of the cell a hand? one logit, which only helps the training
        offset, size    from the cell's middle to the middle of the joints' tight box, in cells; logarithm of its width and height

Objectness and side are apart: where the side is doubtful, a hand is found all the same. A hand is a local maximum of the
objectness above :attr:`LocatorConfig.threshold`, which training calibrates on validation frames.

A locator of two stages has a :class:`amt.model.verifier.Verifier` as well. What the first stage proposes above
:data:`amt.locate.second_look.LOOKED_AT` is looked at again in crops of the full picture; the threshold is then of the
verifier's probability, and the side and the box are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.model.conv import Residual, convolution
from amt.model.verifier import Verifier

STRIDE = 8
MOST_HANDS = 8  # in a picture
PROPOSED = 0.05  # least objectness of what a verifier learns from, and looks at where every picture shows a hand
SAME_HAND = 0.3  # boxes that overlap more are one hand
NEAR = 0.6  # and so are boxes whose middles are nearer than this share of the smaller one's longer side


@dataclass(frozen=True)
class LocatorConfig:
    """What is saved beside a locator's weights. Raises ValueError for numbers that cannot be."""

    width: int = 192  # px: pictures are shrunk into this size, their shape kept
    height: int = 144
    channels: tuple[int, ...] = (32, 64, 96)  # at strides 4, 8, 16
    threshold: float = 0.3  # least score of a hand
    verifier: tuple[int, ...] = ()  # channels of the second stage at strides 4, 8, 16; () for one stage

    def __post_init__(self):
        for name, counts in (("channels", (3,)), ("verifier", (0, 3))):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) not in counts or any(c < 1 or c % 8 for c in value):
                raise ValueError(f"locator.{name} must be three multiples of 8; got {list(value)}")
        for name in ("width", "height"):
            if getattr(self, name) < 32 or getattr(self, name) % 16:
                raise ValueError(f"locator.{name} must be a multiple of 16 px, at least 32; got {getattr(self, name)}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"locator.threshold must be between 0 and 1; got {self.threshold}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return asdict(self) | {"channels": list(self.channels), "verifier": list(self.verifier)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LocatorConfig:
        """The inverse of :meth:`as_dict`; what this version does not know is left out. Raises ValueError, TypeError."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


class LocatorMaps(NamedTuple):
    """The network's answer for each cell; h, w = height / 8, width / 8."""

    objectness: Tensor  # [B, h, w], logits
    side: Tensor  # [B, h, w], logits of a right hand
    offset: Tensor  # [B, 2, h, w], cells: x, y from the cell's middle
    size: Tensor  # [B, 2, h, w]: log of width and height in cells
    skin: Tensor  # [B, h, w], logits

    def boxes(self) -> Tensor:
        """[B, h, w, 4]: each cell's box in px of the network's picture, as in :class:`FoundHand`; 0 is the first px's centre."""
        h, w = self.objectness.shape[-2:]
        y, x = torch.meshgrid(*(torch.arange(n, device=self.offset.device) for n in (h, w)), indexing="ij")
        middle = (torch.stack((x, y)) + 0.5 + self.offset) * STRIDE - 0.5
        half = self.size.clamp(-4, 6).exp() * (STRIDE / 2)
        return torch.cat((middle - half, middle + half), 1).movedim(1, -1)


class FoundHand(NamedTuple):
    """One hand of a picture, in px of the network's picture."""

    box: tuple[float, float, float, float]  # left, top, right, bottom: the tight box of the joints
    score: float  # objectness, 0-1
    right: float  # probability of a right hand, 0-1


class Locator(nn.Module):
    """See the module's docstring. Takes pictures as :func:`amt.data.letterbox.letterbox` makes them."""

    def __init__(self, config: LocatorConfig | None = None):
        super().__init__()
        self.config = config or LocatorConfig()
        c4, c8, c16 = self.config.channels
        self.fine = nn.Sequential(convolution(3, c4, 6, 4, 1), convolution(c4, c8, stride=2), Residual(c8))
        self.coarse = nn.Sequential(convolution(c8, c16, stride=2), *(Residual(c16) for _ in range(3)))
        self.to_fine, self.join = convolution(c16, c8, 1), Residual(c8)
        self.head = nn.Conv2d(c8, 7, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        self.verifier = Verifier(self.config.verifier) if self.config.verifier else None
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor((-4.0, 0, 0, 0, 1, 1, -3)))

    def forward(self, images: Tensor) -> LocatorMaps:
        """Args: images: uint8 or float [B, 3, height, width], 0-255."""
        x = ((images.float() - 127.5) / 64).to(self.head.weight.dtype)
        fine = self.fine(x.contiguous(memory_format=torch.channels_last))
        coarse = F.interpolate(self.to_fine(self.coarse(fine)), scale_factor=2, mode="nearest")
        out = self.head(self.join(fine + coarse)).float()
        return LocatorMaps(out[:, 0], out[:, 1], out[:, 2:4], out[:, 4:6], out[:, 6])

    @torch.no_grad()
    def find(self, images: Tensor, threshold: float | None = None) -> list[list[FoundHand]]:
        """The hands of each picture, the surest first; [] for a picture without one.

        Args:
            threshold: in place of the calibrated one.
        """
        return self.hands(self(images), self.config.threshold if threshold is None else threshold)

    @staticmethod
    @torch.no_grad()
    def hands(maps: LocatorMaps, limit: float) -> list[list[FoundHand]]:
        """The hands of each picture whose objectness is at least ``limit``, the surest first."""
        scores = maps.objectness.sigmoid()
        peaks = scores * (scores == F.max_pool2d(scores[:, None], 3, 1, 1)[:, 0])
        best, places = peaks.flatten(1).topk(min(2 * MOST_HANDS, peaks[0].numel()))
        rows = torch.arange(len(places), device=places.device)[:, None]
        boxes, right = maps.boxes().flatten(1, 2)[rows, places], maps.side.sigmoid().flatten(1)[rows, places]
        return [
            apart([FoundHand(tuple(box), score, side) for box, score, side in zip(*picture) if score >= limit])
            for picture in zip(boxes.tolist(), best.tolist(), right.tolist())
        ]

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


def apart(hands: list[FoundHand]) -> list[FoundHand]:
    """Without those that are one hand with a surer one."""
    kept: list[FoundHand] = []
    for hand in hands:
        if not any(same_hand(hand.box, other.box) for other in kept):
            kept.append(hand)
    return kept[:MOST_HANDS]


def same_hand(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) are so near that they are taken for those of one hand."""
    sides = [[box[2] - box[0], box[3] - box[1]] for box in (a, b)]
    shared = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    area = shared[0] * shared[1]
    if area >= SAME_HAND * (sides[0][0] * sides[0][1] + sides[1][0] * sides[1][1] - area):
        return True
    far = max(abs(a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1))
    return far < NEAR / 2 * min(max(s) for s in sides)
