"""What reads the pixels. Every backbone returns :class:`~amt.model.features.Features`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.kernels import normalize
from amt.model.config import ModelConfig
from amt.model.conv import Residual, convolution
from amt.model.dinov2 import DinoV2Backbone
from amt.model.features import Features
from amt.model.layers import Block, rising

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """uint8 RGB [B, 3, S, S] to floats with ImageNet's mean and deviation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN) * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(IMAGE_STD) * 255), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return normalize(image, self.mean, self.scale)


class HybridBackbone(nn.Module):
    """Convolutions with batch norm in front of a transformer: learns from little data in minutes.

    A transformer on bare patches, trained from nothing in that time, falls to the mean pose.
    """

    pretrained = False

    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden = config.hidden
        widths = (hidden // 6, hidden // 3, hidden * 2 // 3, hidden)
        self.stages = nn.ModuleList(
            _stage(i, o, count) for i, o, count in zip((3, *widths[:-1]), widths, config.backbone.residuals)
        )
        grid = config.crop_size // 16
        self.position = nn.Parameter(_sines(grid, hidden)[None])
        self.blocks = nn.ModuleList(
            Block(hidden, config.mlp_ratio, drop_path=share)
            for share in rising(config.drop_path, config.backbone.depth)
        )
        self.norm = nn.LayerNorm(hidden)
        self.map_channels = (widths[1], widths[2], hidden)

    def forward(self, image: Tensor) -> Features:  # [B, 3, S, S]
        x, maps = image.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens = x.flatten(2).mT + self.position
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        high = tokens.mT.unflatten(2, x.shape[2:])
        return Features((maps[1], maps[2], high), tokens)


def _sines(grid: int, width: int) -> Tensor:
    """Position embeddings of grid x grid cells, sines and cosines: [grid * grid, width]."""
    axis = torch.arange(grid) / grid
    waves = torch.pi * torch.arange(1, width // 4 + 1) / 4
    phases = axis[:, None] * waves
    y = torch.cat((phases.sin(), phases.cos()), dim=1)[:, None].expand(grid, grid, -1)
    x = torch.cat((phases.sin(), phases.cos()), dim=1)[None].expand(grid, grid, -1)
    return torch.cat((y, x), dim=2).flatten(0, 1) * 0.5


def _stage(channels_in: int, channels_out: int, residuals: int) -> nn.Sequential:
    """Halves a map's side."""
    more = (Residual(channels_out) for _ in range(residuals))
    return nn.Sequential(convolution(channels_in, channels_out, stride=2), *more)


def build_backbone(config: ModelConfig) -> nn.Module:
    """The backbone that the configuration names."""
    if config.backbone.name == "hybrid":
        return HybridBackbone(config)
    return DinoV2Backbone(config)


def resized(feature_map: Tensor, size: int) -> Tensor:
    """A map [B, C, H, W] brought to size x size cells."""
    if feature_map.shape[-2:] == (size, size):
        return feature_map
    return F.interpolate(feature_map, (size, size), mode="bilinear", align_corners=False)
