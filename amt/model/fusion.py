"""One transformer over everything that is known: image, queries, hand, object and contact tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.model.config import ModelConfig
from amt.model.layers import Block, rising


class Tokens(NamedTuple):
    """Token groups, each [B, N_i, hidden]."""

    image: Tensor
    queries: Tensor  # N 3: hand, object, camera
    hand: Tensor  # N 22
    object: Tensor  # N 4
    contact: Tensor | None  # N 22; None where the model has no contact encoder


class Fused(NamedTuple):
    """The groups after fusion, as in :class:`Tokens`. Nobody reads the image's tokens again."""

    queries: Tensor
    hand: Tensor
    object: Tensor
    contact: Tensor | None = None


class Fusion(nn.Module):
    """Joins the groups, marks each with its kind, lets them attend to each other, and takes them apart.

    The last block reads the image's tokens and does not write them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        num_groups = len(Tokens._fields) if config.contact_tokens else len(Tokens._fields) - 1
        self.kind = nn.Parameter(torch.randn(num_groups, config.hidden) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config.hidden, config.mlp_ratio, drop_path=share)
            for share in rising(config.drop_path, config.fusion_depth)
        )
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, tokens: Tokens) -> Fused:
        groups = [group for group in tokens if group is not None]
        num_image, *sizes = [group.shape[1] for group in groups]
        x = torch.cat([group + kind for group, kind in zip(groups, self.kind, strict=True)], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        for block in self.blocks[-1:]:
            x = block.read(x[:, num_image:], x)
        return Fused(*self.norm(x[:, -sum(sizes) :]).split(sizes, dim=1))
