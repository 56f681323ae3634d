"""Inputs of frame_pointnet, and what a user would write instead."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from frames_cases import generator, rotations
from torch import Tensor

SHAPES = {  # batch, points, frames, hidden, features
    "B2-N50-F3-64-128": (2, 50, 3, 64, 128),
    "B1-N1-F1-1-1": (1, 1, 1, 1, 1),
    "B3-N17-F22-33-200": (3, 17, 22, 33, 200),
    "B2-N63-F4-5-12": (2, 63, 4, 5, 12),
    "B1-N300-F2-64-128": (1, 300, 2, 64, 128),
    "B2-N9-F2-100-257": (2, 9, 2, 100, 257),
}


@dataclass
class Arguments:
    points: Tensor
    origins: Tensor
    rotations: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    mask: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)][:7]

    def to(self, *where) -> Arguments:
        """Device or dtype; a dtype of two bytes is the weights' alone."""
        dtype = next((w for w in where if isinstance(w, torch.dtype)), None)
        coordinates = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        device = next((w for w in where if not isinstance(w, torch.dtype)), None)
        moved = [t.to(device=device, dtype=coordinates if i < 3 else dtype) for i, t in enumerate(self.tensors())]
        return Arguments(*moved, self.mask if self.mask is None else self.mask.to(device=device))


def make(shape, seed: int = 0, masked: bool = False) -> Arguments:
    """Float64; points around 0.7 m, spread as a hand's. Masked: 60 % of the points count, none in the first image."""
    batch, points, frames, hidden, features = shape
    g = generator(seed)

    def draw(*size):
        return torch.randn(size, dtype=torch.float64, generator=g)

    centre = torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(batch, points, generator=g) < 0.6
        mask[0] = False
    return Arguments(
        0.05 * draw(batch, points, 3) + centre,
        0.05 * draw(batch, frames, 3) + centre,
        rotations(batch * frames, seed).view(batch, frames, 3, 3),
        0.5 * draw(hidden, 3),
        0.3 * draw(frames, hidden),
        draw(features, hidden) / hidden**0.5,
        0.1 * draw(features),
        mask,
    )


def composed(points, origins, rotations, w1, b1, w2, b2, mask=None) -> Tensor:
    """Plain PyTorch in the weights' dtype, with coordinates in float32."""
    local = ((points[:, None] - origins[:, :, None]) @ rotations / 0.1).to(w1.dtype)
    features = torch.relu(local @ w1.T + b1[:, None]) @ w2.T + b2
    if mask is not None:
        features = features.masked_fill(~mask[:, None, :, None], -torch.inf)
    features = features.max(dim=2).values
    if mask is not None:
        features = torch.where(mask.any(dim=1)[:, None, None], features, 0.0)
    return features.to(points.dtype)


def results(function, arguments: Arguments) -> list[Tensor]:
    """The features, then the gradients of all seven tensors."""
    inputs = [t.detach().requires_grad_() for t in arguments.tensors()]
    out = function(*inputs, arguments.mask)
    seed = torch.randn(out.shape, dtype=torch.float64, generator=generator(9)).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, seed)]
