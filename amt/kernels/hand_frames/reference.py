"""The definition of ``hand_frames`` in plain PyTorch; every other implementation is held to it."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels.constant import places

NUM_JOINTS, NUM_FRAMES = 21, 22
WRIST, INDEX_BASE, LITTLE_BASE = 0, 5, 17
BASES = (1, 5, 9, 13, 17)  # joint of each finger's base, thumb first; the finger's others follow it
FLAT = 1e-6  # sine of the angle at the wrist under which the palm has no normal
REVERSED = 1e-6  # length of (z + b) under which a bone points straight back along its parent


def hand_frames(joints: Tensor) -> tuple[Tensor, Tensor]:  # [B, 21, 3] -> [B, 22, 3], [B, 22, 3, 3]
    palm = _palm(joints)
    tips, bases, middles = [], [], []
    for base in BASES:
        frame, parent = palm, WRIST
        chain = []
        for joint in range(base, base + 4):
            frame = _transport(frame, joints[:, joint] - joints[:, parent])
            chain.append(frame)
            parent = joint
        bases.append(chain[0])
        middles += chain[1:3]
        tips.append(chain[3])
    rotations = torch.stack([*tips, *bases, *middles, palm, palm], dim=1)
    order = (*(b + 3 for b in BASES), *BASES, *(b + i for b in BASES for i in (1, 2)), WRIST)
    center = joints[:, places((WRIST, *BASES), joints)].mean(dim=1, keepdim=True)
    return torch.cat([joints[:, places(order, joints)], center], dim=1), rotations


def _palm(joints: Tensor) -> Tensor:
    """Columns x, y, z [B, 3, 3]: z from the wrist toward the middle of the index's and the little finger's base.

    A flat palm (coincident joints, or all three in a line) has no normal and takes the identity.
    """
    index, little = joints[:, INDEX_BASE] - joints[:, WRIST], joints[:, LITTLE_BASE] - joints[:, WRIST]
    # one common scale keeps squares of 1e20 and 1e-20 in range; it cancels, so no gradient goes through it
    scale = torch.maximum(index.abs().amax(-1, keepdim=True), little.abs().amax(-1, keepdim=True)).detach()
    scale = torch.where(scale > 0, scale, 1.0)
    index, little = index / scale, little / scale
    normal, middle = torch.linalg.cross(index, little), index + little
    flat = normal.norm(dim=-1) <= FLAT * index.norm(dim=-1) * little.norm(dim=-1)
    fallback = torch.eye(3, dtype=joints.dtype, device=joints.device)
    # safe operands first: `where` alone would send NaN gradients through the branch not taken
    n, _ = _unit(torch.where(flat[:, None], fallback[0], normal))
    z, _ = _unit(torch.where(flat[:, None], fallback[2], middle))
    x = torch.linalg.cross(z, n)
    frame = torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)
    return torch.where(flat[:, None, None], fallback, frame)


def _transport(frame: Tensor, bone: Tensor) -> Tensor:
    """The frame [B, 3, 3] carried by the shortest arc that takes its z to the bone [B, 3].

    Q = I + [v]x + [v]x^2 / (1 + c) is a reflection in the plane across h = z + b followed by a sign on z: written so, the
    result stays orthonormal however close the bone comes to pointing straight back.
    """
    b, has_length = _unit(bone)
    z = frame[..., 2]
    h, forward = _unit(z + torch.where(has_length, b, z), smallest=REVERSED)
    reflected = frame - 2 * h[..., :, None] * (h[..., None, :] @ frame)
    carried = torch.stack([reflected[..., 0], reflected[..., 1], -reflected[..., 2]], dim=-1)
    back = torch.stack([frame[..., 0], -frame[..., 1], -frame[..., 2]], dim=-1)
    return torch.where(has_length[..., None], torch.where(forward[..., None], carried, back), frame)


def _unit(vector: Tensor, smallest: float = 0.0) -> tuple[Tensor, Tensor]:
    """The direction of ``vector`` and whether it is longer than ``smallest`` [..., 1]; zeros without gradient where not."""
    scale = vector.abs().amax(-1, keepdim=True).detach()
    longer = ~(scale <= smallest)  # NaN counts as long, so that it comes out where it came in
    scaled = torch.where(longer, vector, 1.0) / torch.where(longer, scale, 1.0)
    return torch.where(longer, scaled / scaled.norm(dim=-1, keepdim=True), 0.0), longer
