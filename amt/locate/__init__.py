"""Finding hands in whole pictures: ``locate(image)`` gives a :class:`Located` for each hand, the surest first.

Two finders share this form: the network that a checkpoint holds (:class:`ModelLocator`), and MediaPipe's models
(:class:`amt.locate.mediapipe.MediaPipeLocator`), which have seen real hands. Programs choose by :func:`open_locator`.
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
from amt.model.checkpoint import load_locator
from amt.model.locator import Locator

NAMES = ("model", "mediapipe", "window")  # of finders; the last one needs the whole model, see amt.infer.locate


@dataclass(frozen=True)
class Located:
    """A hand in a picture. Unpacks as (box, side, score)."""

    box: np.ndarray  # float64 [3], px: the square (cx, cy, side) that a crop is cut from
    side: str  # "right" or "left"
    score: float  # 0-1: how sure it is that a hand is there
    side_score: float = 1.0  # 0.5-1: how sure the side is
    tight: np.ndarray | None = None  # float64 [4], px: left, top, right, bottom around the joints

    def __iter__(self):
        return iter((self.box, self.side, self.score))


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
    """

    def __init__(
        self,
        network: Locator,
        box_scale: float = 1.5,
        device: torch.device | str = "cpu",
        threshold: float | None = None,
    ):
        self.device = torch.device(device)
        self.network, self.box_scale, self.threshold = network.eval().to(self.device), box_scale, threshold

    def locate(self, image: np.ndarray) -> list[Located]:
        return self.locate_many([image])[0]

    @torch.inference_mode()
    def locate_many(self, images: Sequence[np.ndarray]) -> list[list[Located]]:
        if not len(images):
            return []
        config = self.network.config
        small = [letterbox(image, config.width, config.height) for image in images]
        pictures = torch.from_numpy(np.stack([picture for picture, _ in small])).to(self.device).permute(0, 3, 1, 2)
        located = []
        for hands, (_, scale) in zip(self.network.find(pictures, self.threshold), small):
            boxes = boxes_in_picture([hand.box for hand in hands], scale)
            located.append(
                [
                    Located(
                        box=square_around(tight.reshape(2, 2), self.box_scale),
                        side="right" if hand.right >= 0.5 else "left",
                        score=hand.score,
                        side_score=max(hand.right, 1 - hand.right),
                        tight=tight,
                    )
                    for hand, tight in zip(hands, boxes)
                ]
            )
        return located


def open_locator(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    box_scale: float = 1.5,
    device: torch.device | str = "cpu",
    threshold: float | None = None,
    mediapipe: str | Path | None = None,
) -> Finder | None:
    """The finder of that name; None for "model" where the checkpoint holds no locator.

    Args:
        name: "model", or "mediapipe".
        checkpoint: the folder that holds the model's locator.
        mediapipe: MediaPipe's wheel, or a folder with its .tflite files.

    Raises:
        CheckpointError: the locator in the checkpoint is broken.
        MediaPipeError: MediaPipe's files or the package that runs them cannot be had.
    """
    if name == "mediapipe":
        from amt.locate.mediapipe import MediaPipeLocator

        return MediaPipeLocator(mediapipe, box_scale, 0.5 if threshold is None else threshold)
    network = load_locator(checkpoint)
    return None if network is None else ModelLocator(network, box_scale, device, threshold)


def boxes_for(finder: Finder, images: Sequence[np.ndarray]) -> list[Located | None]:
    """The surest hand of each picture, for sets whose frames show one; None where none is found. For ``evaluate.box=located``."""
    return [hands[0] if hands else None for hands in finder.locate_many(images)]
