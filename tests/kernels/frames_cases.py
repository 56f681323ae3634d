"""Hands for the tests of the frames: random, plausible, straight, fists and degenerate ones; all float64 [B, 21, 3]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

BASES = (1, 5, 9, 13, 17)
WRIST, INDEX, LITTLE = 0, 5, 17


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotations(count: int, seed: int = 0) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, dtype=torch.float64, generator=generator(seed)))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return q * torch.linalg.det(q)[:, None, None]


def random_hands(count: int, seed: int = 0) -> Tensor:
    """Joints without any order, in metres: bones point anywhere."""
    return 0.1 * torch.randn(count, 21, 3, dtype=torch.float64, generator=generator(seed))


def posed_hands(count: int, seed: int = 0, bend: tuple[float, float] = (0.0, 1.6), spread: float = 0.2) -> Tensor:
    """Plausible hands 0.7 m in front of a camera: the bend in rad that each of a finger's three joints takes."""
    g = generator(seed)
    side = torch.tensor([-0.8, -0.35, -0.05, 0.2, 0.45], dtype=torch.float64)
    joints = torch.zeros(count, 21, 3, dtype=torch.float64)
    lengths = torch.tensor([0.045, 0.028, 0.022], dtype=torch.float64)
    for finger, base in enumerate(BASES):
        direction = side[finger] + spread * (torch.rand(count, dtype=torch.float64, generator=g) - 0.5)
        forward = torch.stack([direction.sin(), torch.zeros_like(direction), direction.cos()], dim=-1)
        at = forward * (0.05 if finger == 0 else 0.09)
        joints[:, base] = at
        angle = torch.zeros(count, dtype=torch.float64)
        down = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
        for i in range(3):
            low, high = bend
            angle = angle + low + (high - low) * torch.rand(count, dtype=torch.float64, generator=g)
            at = at + lengths[i] * (angle.cos()[:, None] * forward + angle.sin()[:, None] * down)
            joints[:, base + 1 + i] = at
    rotated = joints @ rotations(count, seed + 1).mT
    return rotated + torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)


def straight_hands(count: int, seed: int = 0) -> Tensor:
    """Each finger one straight line, in any direction, also back over the palm."""
    g = generator(seed)
    joints = posed_hands(count, seed)
    directions = normalize(torch.randn(count, 5, 3, dtype=torch.float64, generator=g), dim=-1)
    for finger, base in enumerate(BASES):
        for i in range(1, 4):
            joints[:, base + i] = joints[:, base] + 0.03 * i * directions[:, finger]
    return joints


def fists(count: int, seed: int = 0) -> Tensor:
    return posed_hands(count, seed, bend=(1.3, 1.7))


def degenerate_hands() -> dict[str, Tensor]:
    """Each [1, 21, 3]."""
    plain = posed_hands(1, 7) - torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)
    cases = {"origin": torch.zeros_like(plain), "one-point": torch.full_like(plain, 0.3)}
    line = torch.arange(21, dtype=torch.float64)[None, :, None]
    cases["line"] = line * torch.tensor([0.01, 0.02, -0.01], dtype=torch.float64)
    cases["line-along-x"] = line * torch.tensor([0.01, 0.0, 0.0], dtype=torch.float64)

    def changed(**joints: Tensor) -> Tensor:
        hand = plain.clone()
        for name, value in joints.items():
            hand[:, int(name[1:])] = value
        return hand

    cases["flat-palm"] = changed(j17=2 * plain[:, INDEX] - plain[:, WRIST])
    cases["base-at-wrist"] = changed(j5=plain[:, WRIST])
    cases["bones-of-no-length"] = changed(j7=plain[:, 6], j8=plain[:, 6], j1=plain[:, WRIST])
    cases["tip-at-joint"] = changed(j20=plain[:, 19])
    cases["straight-back"] = changed(j11=plain[:, 9], j12=plain[:, 10])
    # exactly opposite: the middle finger's bone runs back along the one before it
    cases["reversed"] = changed(j10=2 * plain[:, 9] - plain[:, 0], j11=plain[:, 9] + 0.5 * (plain[:, 9] - plain[:, 0]))
    opposite = plain.clone()
    opposite[:, [0, 5, 17, 9, 10, 11]] = torch.tensor(
        [[0, 0, 0], [1, 0, 2], [-1, 0, 2], [0, 0, 2], [0, 0, 1], [0, 0, 3]], dtype=torch.float64
    )
    cases["palm-axis-reversed"] = opposite
    return cases
