"""Brings the backbone's maps together and to the resolution that pixel-aligned refinement needs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from amt.model.backbone import resized
from amt.model.config import ModelConfig
from amt.model.conv import Residual, convolution
from amt.model.features import Features, Maps


class Neck(nn.Module):
    """A feature pyramid from deep to fine: channels-last maps of ``map_size`` and half of it, as ``refine`` takes them."""

    def __init__(self, config: ModelConfig, channels: tuple[int, int, int]):
        super().__init__()
        width = config.map_channels
        self.fine, self.coarse = config.map_size, config.map_size // 2
        self.low, self.mid, self.high = (nn.Conv2d(c, width, 1) for c in channels)
        self.merge = nn.Sequential(convolution(width, width), Residual(width))
        self.sharpen = Residual(width)
        self.fine_out = nn.Linear(width, width)
        # the coarse map is read by the refinement only
        self.coarse_out = nn.Linear(width, width) if config.refine_steps else nn.Identity()

    def forward(self, features: Features) -> Maps:
        low, mid, high = features.maps
        coarse = self.merge(resized(self.mid(mid), self.coarse) + resized(self.high(high), self.coarse))
        fine = self.sharpen(F.relu(resized(self.low(low), self.fine) + resized(coarse, self.fine)))
        # a channels-last map is what a Linear over the last axis wants and writes
        return Maps(self.fine_out(fine.permute(0, 2, 3, 1)), self.coarse_out(coarse.permute(0, 2, 3, 1)))
