"""Finding hands in whole pictures: ``locate(image)`` gives a :class:`Located` for each hand, the surest first.

Two finders share this form: a network (:class:`ModelLocator`), the checkpoint's own or the one that ships, and MediaPipe's
models (:class:`amt.locate.mediapipe.MediaPipeLocator`), which have seen real hands. Programs choose by :func:`open_locator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from amt.data.crops import square_around
from amt.data.letterbox import boxes_in_picture, letterbox
from amt.locate.second_look import LOOKED_AT, verify
from amt.locate.sides import log_odds
from amt.model.checkpoint import load_locator, read_record
from amt.model.lean import bfloat16_is_slow, lean
from amt.model.locator import PROPOSED, FoundHand, Locator
from amt.model.shipped_locator import shipped_locator

USABLE = 0.9  # recall on validation frames: a checkpoint's locator that finds less is not used
NAMES = ("model", "mediapipe", "window")  # of finders; the last one needs the whole model, see amt.infer.locate


@dataclass(frozen=True)
class Located:
    """A hand in a picture. Unpacks as (box, side, score)."""

    box: np.ndarray  # float64 [3], px: the square (cx, cy, side) that a crop is cut from
    side: str  # "right" or "left"
    score: float  # 0-1: how sure it is that a hand is there
    side_score: float = 1.0  # 0.5-1: how sure the side is
    tight: np.ndarray | None = None  # float64 [4], px: left, top, right, bottom around the joints
    sure: bool = True  # False: below the finder's threshold, for another judge to decide

    def __iter__(self):
        return iter((self.box, self.side, self.score))

    @property
    def odds(self) -> float:
        """Of a right hand, nats."""
        return log_odds(self.side, self.side_score)


class Finder(Protocol):
    """What finds hands in pictures. Several threads may call it at once."""

    def locate(self, image: np.ndarray) -> list[Located]:
        """The hands of one picture, uint8 [H, W, 3] RGB, the surest first; [] where there is none."""

    def locate_many(self, images: Sequence[np.ndarray]) -> list[list[Located]]:
        """The same for several pictures of any sizes."""


class ModelLocator:
    """Finds hands by a trained :class:`amt.model.locator.Locator`.

    Args:
        network: put into evaluation mode on ``device``.
        box_scale: side of the square over the longest side of the joints' tight box, as the model's crops were cut.
        threshold: least score of a hand; None: what training calibrated.
        always: every picture shows a hand, as labelled frames do: where no score reaches the threshold, the surest one counts.
        unsure: least score of hands that are given below the threshold, with ``sure`` False; None: there are none.
        fast: run a copy with batch norms folded, on a CPU in bfloat16 where that is faster (:func:`amt.model.lean.lean`).
    """

    def __init__(
        self,
        network: Locator,
        box_scale: float = 1.5,
        device: torch.device | str = "cpu",
        threshold: float | None = None,
        always: bool = False,
        fast: bool = False,
        unsure: float | None = None,
    ):
        self.device, self.always, self.unsure = torch.device(device), always, unsure
        self.network, self.box_scale, self.threshold = network.eval().to(self.device), box_scale, threshold
        narrow = self.device.type == "cpu" and not bfloat16_is_slow(self.device)
        self.running = lean(self.network, narrow) if fast else self.network

    def plain(self) -> ModelLocator:
        """The same finder with the network as it was trained."""
        return ModelLocator(self.network, self.box_scale, self.device, self.threshold, self.always, unsure=self.unsure)

    def locate(self, image: np.ndarray) -> list[Located]:
        return self.locate_many([image])[0]

    @torch.inference_mode()
    def locate_many(self, images: Sequence[np.ndarray]) -> list[list[Located]]:
        if not len(images):
            return []
        config = self.network.config
        small = [letterbox(image, config.width, config.height) for image in images]
        pictures = torch.from_numpy(np.stack([picture for picture, _ in small])).to(self.device).permute(0, 3, 1, 2)
        verifier, threshold = self.running.verifier, config.threshold if self.threshold is None else self.threshold
        least = threshold if self.unsure is None else min(threshold, self.unsure)
        proposed = PROPOSED if self.always else LOOKED_AT
        found = self.running.find(pictures, least if verifier is None and not self.always else min(least, proposed))
        boxes = [boxes_in_picture([hand.box for hand in hands], scale) for hands, (_, scale) in zip(found, small)]
        if verifier is None:
            located = [[h._replace(box=tuple(b)) for h, b in zip(*picture)] for picture in zip(found, boxes)]
        else:
            located = verify(verifier, images, boxes)
        kept = [[hand for hand in hands if hand.score >= least] or hands[: int(self.always)] for hands in located]
        return [[self._located(hand, hand.score >= threshold or self.always) for hand in hands] for hands in kept]

    def _located(self, hand: FoundHand, sure: bool) -> Located:
        tight = np.array(hand.box)
        return Located(
            box=square_around(tight.reshape(2, 2), self.box_scale),
            side="right" if hand.right >= 0.5 else "left",
            score=hand.score,
            side_score=max(hand.right, 1 - hand.right),
            tight=tight,
            sure=sure,
        )


def open_locator(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    box_scale: float = 1.5,
    device: torch.device | str = "cpu",
    threshold: float | None = None,
    always: bool = False,
    mediapipe: str | Path | None = None,
    fast: bool = False,
    unsure: float | None = None,
) -> Finder:
    """The finder of that name.

    Args:
        name: "model": the checkpoint's own locator, or the one that ships where the checkpoint holds none, or one whose recall
            on validation frames is below :data:`USABLE`; or "mediapipe".
        checkpoint: the folder that may hold a locator; None takes the one that ships.
        always: see :class:`ModelLocator`; MediaPipe's models know no candidates.
        mediapipe: MediaPipe's wheel, or a folder with its .tflite files.
        fast, unsure: see :class:`ModelLocator`; MediaPipe's models give only hands that they are sure of.

    Raises:
        CheckpointError: the locator in the checkpoint is broken.
        MediaPipeError: MediaPipe's files or the package that runs them cannot be had.
    """
    if name == "mediapipe":
        from amt.locate.mediapipe import MediaPipeLocator

        return MediaPipeLocator(mediapipe, box_scale, 0.5 if threshold is None else threshold)
    network = None if checkpoint is None else load_locator(checkpoint)
    if network is not None:
        found = read_record(checkpoint)["locator"].get("recall")
        if isinstance(found, (int, float)) and found < USABLE:
            network = None
    return ModelLocator(network or shipped_locator(), box_scale, device, threshold, always, fast, unsure)
