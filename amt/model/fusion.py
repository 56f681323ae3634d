"""One transformer over everything that is known: image, queries, hand, object and contact tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.model.config import ModelConfig
from amt.model.layers import Block


class Fusion(nn.Module):
    """Concatenates the token groups, marks each with its kind, lets them attend to each other, and takes them apart.

    The first group is the image's: it is read to the end, but nobody reads what became of it, so the last block leaves it out.
    """

    def __init__(self, config: ModelConfig, num_groups: int):
        super().__init__()
        self.kind = nn.Parameter(torch.randn(num_groups, config.hidden) * 0.02)
        self.blocks = nn.ModuleList(Block(config.hidden, config.mlp_ratio) for _ in range(config.fusion_depth))
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, *groups: Tensor) -> tuple[Tensor, ...]:
        """All groups but the first, each [B, N_i, hidden], after fusion."""
        sizes = [group.shape[1] for group in groups[1:]]
        tokens = torch.cat([group + kind for group, kind in zip(groups, self.kind)], dim=1)
        num_image = groups[0].shape[1]
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        for block in self.blocks[-1:]:
            tokens = block.read(tokens[:, num_image:], tokens)
        return self.norm(tokens[:, -sum(sizes) :]).split(sizes, dim=1)
