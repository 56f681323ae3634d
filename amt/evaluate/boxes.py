"""Where the model looks: in the true squares, as papers do, or in those that a locator finds (``evaluate.box``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from amt.data.config import CropConfig
from amt.data.crops import cut
from amt.data.reader import Reader
from amt.hand.batch import Batch, Inputs
from amt.hand.camera import crop_camera, project
from amt.hand.skeleton import NUM_JOINTS
from amt.locate import open_locator
from amt.locate.sides import in_doubt, word
from amt.locate.squares import SETTLED, moved, next_box, on_grid
from amt.model import AMT

NEAREST = 0.25  # a found square whose overlap over union with the true one is less has found something else


class Found(Protocol):
    """A hand that a locator found."""

    box: Sequence[float]  # px of the full picture: centre x, centre y, side
    side: str  # "right" or "left"

    @property
    def odds(self) -> float:
        """Of a right hand, nats."""


class Locator(Protocol):
    """What finds hands."""

    def locate(self, image: np.ndarray) -> Sequence[Found]:
        """The hands in a picture (uint8 [H, W, 3], RGB)."""


def find_locator(checkpoint: Path, box_scale: float, device: torch.device | str = "cpu") -> Locator:
    """The checkpoint's own locator where it has a good one, else the one that ships.

    Each frame that is scored shows a labelled hand: where no score reaches the locator's threshold, its surest candidate counts.

    Args:
        box_scale: side of the square over the longest side of the joints' tight box, as the model's crops were cut.
    """
    return open_locator("model", checkpoint, box_scale=box_scale, device=device, always=True)


class LocatedBatches:
    """Batches whose crops are cut again, from the full pictures, in the squares that a locator finds.

    Of the hands that it finds in a picture, the one counts whose square lies nearest to the labelled hand's. Where none
    overlaps it, the hand is missed: its crop stays the true one, and its index goes into :attr:`missed`. As in :mod:`amt.infer`,
    a side in doubt is the one that the model is surer of, and a square that its joints do not fit is replaced by theirs.

    Args:
        model: in evaluation mode.
        box_scale: see :func:`find_locator`.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        reader: Reader,
        locator: Locator,
        model: AMT,
        box_scale: float = CropConfig.box_scale,
    ):
        self.batches, self.reader, self.locator, self.model = batches, reader, locator, model
        self.box_scale = box_scale
        self.missed: set[int] = set()

    def of(self, batches: Iterable[Batch]) -> LocatedBatches:
        """The same of other batches."""
        return LocatedBatches(batches, self.reader, self.locator, self.model, self.box_scale)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            inputs = batch.inputs.map(torch.clone)
            doubtful: dict[int, float] = {}  # odds of a right hand by row
            pictures: dict[int, np.ndarray] = {}  # by row, where a hand was found
            for row, index in enumerate(batch.index.tolist()):
                image = self.reader.frame_at(index).image()
                found = nearest(self.locator.locate(image), inputs.box[row].numpy())
                if found is None:
                    self.missed.add(index)
                    continue
                pictures[row] = image
                _cut_again(inputs, row, image, on_grid(found.box))
                inputs.right[row] = found.side == "right"
                if in_doubt(found.odds):
                    doubtful[row] = found.odds
            self._settle(inputs, pictures, doubtful)
            yield replace(batch, inputs=inputs)

    @torch.no_grad()
    def _settle(self, inputs: Inputs, pictures: dict[int, np.ndarray], doubtful: dict[int, float]) -> None:
        """Cuts rows again where the model's joints ask for another square, and lets it decide the sides in doubt. In place."""
        if not pictures:
            return
        mirrored = replace(inputs.map(torch.clone), right=~inputs.right)
        own = self._follow(inputs, pictures, set(doubtful))
        other = self._follow(mirrored, {row: pictures[row] for row in doubtful}, set(doubtful))
        for row, odds in doubtful.items():
            right = bool(inputs.right[row])
            as_right, as_left = (own[row], other[row]) if right else (other[row], own[row])
            if right != (odds + word(as_right, as_left) >= 0):
                for (_, tensor), (_, its_other) in zip(inputs.named_tensors(), mirrored.named_tensors()):
                    tensor[row] = its_other[row]

    def _follow(self, inputs: Inputs, pictures: dict[int, np.ndarray], asked: set[int]) -> dict[int, float]:
        """Cuts these rows again, in place, in the squares of their joints. The doubts (nats) of ``asked`` in theirs, by row."""
        if not pictures:
            return {}
        rows, device = list(pictures), next(self.model.parameters()).device
        seen = self.model(inputs[rows].to(device))
        doubts = dict(zip(rows, seen.keypoints.doubt(NUM_JOINTS).tolist()))
        pixels, again = project(seen.joints.cpu(), inputs.frame_intrinsics[rows]).numpy(), []
        for row, joints in zip(rows, pixels):
            square = on_grid(next_box(joints, *pictures[row].shape[:2], self.box_scale))
            if np.isfinite(joints).all() and moved(inputs.box[row].double().numpy(), square) >= SETTLED:
                _cut_again(inputs, row, pictures[row], square)
                again.append(row)
        again = [row for row in again if row in asked]
        if again:
            seen = self.model(inputs[again].to(device))
            doubts.update(zip(again, seen.keypoints.doubt(NUM_JOINTS).tolist()))
        return doubts


def _cut_again(inputs: Inputs, row: int, image: np.ndarray, box: np.ndarray) -> None:
    """Puts the crop of a square (cx, cy, side; px of ``image``) in place of a row's."""
    size = inputs.image.shape[-1]
    of_crop, warp = crop_camera(inputs.frame_intrinsics[row].double().numpy(), box, size)
    inputs.image[row] = torch.from_numpy(cut(image, warp.numpy(), size)).permute(2, 0, 1)
    inputs.intrinsics[row] = of_crop.float()
    inputs.box[row] = torch.from_numpy(box).float()


def nearest(found: Sequence[Found], true: np.ndarray) -> Found | None:
    """The hand whose square overlaps the true one [3] most; None where none does by :data:`NEAREST`."""
    best = max(found, key=lambda hand: overlap(np.asarray(hand.box, np.float64), true), default=None)
    return None if best is None or overlap(np.asarray(best.box, np.float64), true) < NEAREST else best


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two squares (centre x, centre y, side), 0-1."""
    low = np.maximum(a[:2] - a[2] / 2, b[:2] - b[2] / 2)
    high = np.minimum(a[:2] + a[2] / 2, b[:2] + b[2] / 2)
    both = float(np.prod(np.clip(high - low, 0, None)))
    return both / (a[2] ** 2 + b[2] ** 2 - both)
