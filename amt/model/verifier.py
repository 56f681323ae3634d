"""The locator's second stage: looks at what the first one proposes in a crop of the full picture, as MTCNN's R-Net does.

    crop [B, 3, 80, 80] ── features at strides 4, 8 and 16 ── brought together at stride 8 ── 21 joints' maps, skin
                                                          └─ with the joints' places ── hand?, right?, box, depths

A crop is the square :data:`SCALE` times as wide as the longest side of a proposed box. Joints and skin only help the training: a
network that must name the thumb learns which side a hand is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.kernels.constant import constant
from amt.model.conv import Residual, convolution

SIZE = 80  # px of a crop
SCALE = 1.5  # side of a crop over the longest side of the proposed box
UNIT = SIZE / SCALE  # px of a crop: the longest side of the proposed box
JOINTS = 21


class Verdict(NamedTuple):
    """What the network says of crops."""

    hand: Tensor  # [B], logits: is a hand's box about where it was proposed?
    right: Tensor  # [B], logits of a right hand
    box: Tensor  # [B, 4]: the box's middle from the crop's, in UNIT; log of its width and height in UNIT
    depth: Tensor  # [B, 21], dm: joints' depths from their mean
    joints: Tensor  # [B, 21, 2], -1 to 1 over the crop
    skin: Tensor  # [B, 10, 10], logits: is most of the cell a hand?

    def boxes(self) -> Tensor:
        """[B, 4], px of the crop: left, top, right, bottom."""
        middle = self.box[:, :2] * UNIT + (SIZE - 1) / 2
        half = self.box[:, 2:].clamp(-3, 2).exp() * (UNIT / 2)
        return torch.cat((middle - half, middle + half), 1)


class Verifier(nn.Module):
    """See the module's docstring.

    Args:
        channels: at strides 4, 8, 16.
    """

    def __init__(self, channels: tuple[int, ...] = (64, 128, 128)):
        super().__init__()
        c4, c8, c16 = channels
        self.fine = nn.Sequential(
            convolution(3, c4, 6, 4, 1),
            Residual(c4),
            Residual(c4),
            convolution(c4, c8, stride=2),
            Residual(c8),
            Residual(c8),
        )
        self.coarse = nn.Sequential(convolution(c8, c16, stride=2), Residual(c16))
        self.to_fine, self.join = convolution(c16, c8, 1), Residual(c8)
        self.maps = nn.Conv2d(c8, JOINTS + 1, 1)
        self.flat = convolution(c16, 32, 1)
        self.hidden = nn.Sequential(nn.Linear(32 * (SIZE // 16) ** 2 + 2 * JOINTS, 128), nn.ReLU(inplace=True))
        self.head = nn.Linear(128, 6 + JOINTS)
        for layer in (self.maps, self.head):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        middles = (torch.arange(SIZE // 8) + 0.5) / (SIZE // 8) * 2 - 1
        grid = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1).reshape(-1, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, crops: Tensor) -> Verdict:
        """Args: crops: uint8 or float [B, 3, 80, 80], 0-255."""
        x = ((crops.float() - 127.5) / 64).to(self.maps.weight.dtype).contiguous(memory_format=torch.channels_last)
        fine = self.fine(x)
        coarse = self.coarse(fine)
        together = fine + F.interpolate(self.to_fine(coarse), scale_factor=2, mode="nearest")
        maps = self.maps(self.join(together)).float()
        joints = maps[:, :JOINTS].flatten(2).softmax(-1) @ self.grid
        features = torch.cat((self.flat(coarse).flatten(1).float(), joints.flatten(1)), 1)
        out = self.head(self.hidden(features)).float()
        return Verdict(out[:, 0], out[:, 1], out[:, 2:6], out[:, 6:], joints, maps[:, JOINTS])

    def judge(self, crops: Tensor, both_ways: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities of a hand [B] and of a right one [B], and boxes [B, 4] (px of the crop).

        Args:
            both_ways: means over a crop and its mirror image. A mirrored right hand is a left one: its logit changes its sign.
        """
        verdict = self(torch.cat((crops, crops.flip(-1))) if both_ways else crops)
        said = torch.cat((verdict.hand[:, None], verdict.right[:, None], verdict.box), 1)
        if both_ways:
            mirrored = said[len(crops) :] * constant((1, -1, -1, 1, 1, 1), said)
            said = (said[: len(crops)] + mirrored) / 2
        return said[:, 0].sigmoid(), said[:, 1].sigmoid(), verdict._replace(box=said[:, 2:]).boxes()
