"""Trains both stages of the locator that ships, in turn, for as long as they are given; goes on from where a run was ended.

One thread, bfloat16 products. The rate is constant for a share of the time that is left and falls to 0 after that. Weights are
averaged over steps; the averages are what is published.
"""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from amt.data.letterbox import boxes_in_picture, letterbox
from amt.data.whole_frames import HEIGHT, WIDTH, WholeFrames, compose, read_background_frames
from amt.errors import UsageError
from amt.model.locator import PROPOSED, Locator, LocatorConfig
from amt.model.shipped_locator import shipped_locator, shipped_record
from amt.model.verifier import SIZE, Verifier
from amt.train.locator.bake.crops import NOTHING, CropTargets, make_crop, wrong_proposals
from amt.train.locator.bake.loss import verifier_loss
from amt.train.locator.bake.scenes import Scenes
from amt.train.locator.loss import LocatorTargets, locator_loss, make_targets
from amt.train.muon import Muon

log = logging.getLogger(__name__)
CONFIG = LocatorConfig(width=256, height=192, channels=(32, 64, 96), verifier=(64, 128, 128))
PICTURES, CROPS = 16, 64  # a step of the first stage, of the second
PICTURE_STEPS, CROP_STEPS = 2, 2  # a round
MOST_WRONG, WRONG = (
    2,
    20,
)  # crops of a picture, and of a step of the second stage, that the first stage wrongly proposed
LR, MUON_LR, WEIGHT_DECAY = 2e-3, 6e-3, 0.02
WARMUP, CONSTANT = 100, 0.3  # rounds; share of the time
AVERAGED, CLIP_NORM = 0.99, 10.0
SAVED_EVERY = 60.0  # s
STATE = "state.pt"


class Stages:
    """Both networks, their averages and optimizers."""

    def __init__(self):
        proposals = Locator(LocatorConfig(CONFIG.width, CONFIG.height, CONFIG.channels))
        self.nets: dict[str, nn.Module] = {"proposals": proposals, "verifier": Verifier(CONFIG.verifier)}
        self.nets = {name: net.to(memory_format=torch.channels_last).train() for name, net in self.nets.items()}
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.optimizers = {name: _optimizers(net) for name, net in self.nets.items()}
        self.round = self.begun = 0  # rounds in all; of them those before the optimizers began

    def begin(self, path: Path) -> None:
        """Takes the weights of an asset for nets and averages, and counts rounds on from its own.

        Raises:
            UsageError: the file cannot be read, or holds a locator of another form.
        """
        try:
            locator, record = shipped_locator(path), shipped_record(path)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise UsageError(f"--start {path}: is not a locator's file, or broken ({reason})") from error
        if replace(locator.config, threshold=CONFIG.threshold) != CONFIG:
            raise UsageError(f"--start {path}: its locator is {locator.config}; this trains {CONFIG}")
        state = locator.state_dict()
        own = {name: value for name, value in state.items() if not name.startswith("verifier.")}
        second = {name.removeprefix("verifier."): value for name, value in state.items() if name not in own}
        for name, weights in (("proposals", own), ("verifier", second)):
            self.nets[name].load_state_dict(weights)
            self.averages[name] = {key: value.clone() for key, value in self.nets[name].state_dict().items()}
        self.round = self.begun = int(record.get("rounds", 0))

    def locator(self) -> Locator:
        """The averages as one locator of two stages, in evaluation mode."""
        verifier = {f"verifier.{name}": value for name, value in self.averages["verifier"].items()}
        locator = Locator(CONFIG)
        locator.load_state_dict(self.averages["proposals"] | verifier)
        return locator.eval()

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {"round": self.round, "begun": self.begun, "averages": self.averages}
        state["nets"] = {name: net.state_dict() for name, net in self.nets.items()}
        state["optimizers"] = {n: [o.state_dict() for o, _ in pair] for n, pair in self.optimizers.items()}
        part = path.with_name(f".part-{path.name}")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.round, self.begun, self.averages = state["round"], state.get("begun", 0), state["averages"]
        for name, net in self.nets.items():
            net.load_state_dict(state["nets"][name])
            for (optimizer, _), saved in zip(self.optimizers[name], state["optimizers"][name]):
                optimizer.load_state_dict(saved)

    def step(self, name: str, loss: Tensor, share: float) -> None:
        """One step of a network's optimizers, at a share of their peak rates."""
        net = self.nets[name]
        net.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        for optimizer, peak in self.optimizers[name]:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
        decay = min(AVERAGED, (self.round + 1) / (self.round + 20))
        now = net.state_dict()
        if name not in self.averages:
            self.averages[name] = {key: value.clone() for key, value in now.items()}
        for key, value in now.items():
            if value.is_floating_point():
                self.averages[name][key].lerp_(value, 1 - decay)
            else:
                self.averages[name][key].copy_(value)


def fit(
    folder: Path, scenes: Scenes, minutes: float, seed: int, start_from: Path | None = None, peak: float = 1.0
) -> Stages:
    """Trains for so many minutes; the state lies in ``folder`` and is continued from.

    Args:
        start_from: an asset whose weights a new state begins with; None: random ones.
        peak: share of the peak rates.

    Raises:
        UsageError: ``start_from`` cannot be taken.
    """
    stages, path = Stages(), folder / STATE
    if path.is_file():
        stages.load(path)
        log.info("goes on after round %d", stages.round)
    elif start_from is not None:
        stages.begin(start_from)
        log.info("begins with the weights of %s, after round %d", start_from, stages.round)
    photographs = read_background_frames()
    frames = scenes.frames(photographs)
    start = saved = time.monotonic()
    terms: dict[str, list[float]] = {}
    while (share := (time.monotonic() - start) / max(60 * minutes, 1e-9)) < 1:
        falling = max(0.0, share - CONSTANT) / (1 - CONSTANT)
        warm = min(1.0, (stages.round + 1 - stages.begun) / WARMUP)
        rate = peak * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * falling)))
        losses, wrong = [], []
        for k in range(PICTURE_STEPS):
            losses.append(_propose(stages, frames, seed, stages.round * PICTURE_STEPS + k, rate, wrong))
        for k in range(CROP_STEPS):
            losses.append(
                _verify(stages, scenes, photographs, seed, stages.round * CROP_STEPS + k, rate, wrong[k::CROP_STEPS])
            )
        for loss in losses:
            for name, value in loss.items():
                terms.setdefault(name, []).append(float(value.detach()))
        stages.round += 1
        if time.monotonic() - saved > SAVED_EVERY:
            stages.save(path)
            means = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in terms.items())
            log.info("round %d, rate %.2f: %s", stages.round, rate, means)
            saved, terms = time.monotonic(), {}
    stages.save(path)
    return stages


def _propose(stages: Stages, frames: WholeFrames, seed: int, step: int, rate: float, wrong: list) -> dict[str, Tensor]:
    """A step of the first stage. Adds crops of what it takes for a hand to ``wrong``."""
    pictures, small, rows = [], np.empty((PICTURES, CONFIG.height, CONFIG.width, 3), np.uint8), []
    for k in range(PICTURES):
        epoch, place = divmod(step * PICTURES + k, len(frames))
        index = int(np.random.default_rng([seed, epoch]).permutation(len(frames))[place])
        sample = compose(frames, WIDTH, HEIGHT, seed, epoch, index)
        small[k], scale = letterbox(sample.image, CONFIG.width, CONFIG.height)
        boxes, ignored = ((b + 0.5) * scale - 0.5 for b in (sample.boxes, sample.ignored))
        skin = cv2.resize(sample.skin, (CONFIG.width, CONFIG.height), interpolation=cv2.INTER_AREA)
        rows.append(make_targets(boxes, sample.right, ignored, skin))
        pictures.append(sample)
    targets = LocatorTargets(*(torch.from_numpy(np.stack(column)) for column in zip(*rows)))
    with torch.autocast("cpu", torch.bfloat16):
        maps = stages.nets["proposals"](torch.from_numpy(small).permute(0, 3, 1, 2))
    for sample, hands in zip(pictures, Locator.hands(maps, PROPOSED)):
        proposals = boxes_in_picture([hand.box for hand in hands], scale)
        wrong += wrong_proposals(sample.image, proposals, np.concatenate([sample.boxes, sample.ignored]), MOST_WRONG)
    loss = locator_loss(maps, targets)
    stages.step("proposals", loss["loss"], rate)
    return {f"proposals {name}": value for name, value in loss.items()} | {"wrong": torch.tensor(len(wrong) / PICTURES)}


def _verify(stages: Stages, scenes: Scenes, photographs, seed: int, step: int, rate: float, wrong) -> dict[str, Tensor]:
    """A step of the second stage, from crops that are made and wrong ones of the first stage."""
    rng, images, rows = np.random.default_rng([seed, step]), np.empty((CROPS, SIZE, SIZE, 3), np.uint8), []
    for k in range(CROPS):
        if k < min(len(wrong), WRONG):
            images[k], row = wrong[k][:, :: int(rng.choice((-1, 1)))], NOTHING
        else:
            images[k], row = make_crop(scenes, photographs, rng)
        rows.append(row)
    targets = CropTargets(*(torch.from_numpy(np.stack(column)) for column in zip(*rows)))
    with torch.autocast("cpu", torch.bfloat16):
        verdict = stages.nets["verifier"](torch.from_numpy(images).permute(0, 3, 1, 2))
    loss = verifier_loss(verdict, targets)
    stages.step("verifier", loss["loss"], rate)
    return {f"verifier {name}": value for name, value in loss.items()}


def _optimizers(net: nn.Module) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for kernels between features, AdamW for the rest; each with its peak rate."""
    matrices, others = [], []
    for name, p in net.named_parameters():
        is_matrix = p.dim() == 4 and p.shape[1] > 3 and not name.startswith(("head.", "maps."))
        (matrices if is_matrix else others).append(p)
    muon, adam = Muon(matrices, MUON_LR, WEIGHT_DECAY), torch.optim.AdamW(others, LR, weight_decay=0.0)
    return [(muon, MUON_LR), (adam, LR)]
