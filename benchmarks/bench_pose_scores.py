"""pose_scores beside the projection and F.grid_sample that it replaces: a search's poses, and the loss's with their gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.kernels import pose_scores
from amt.kernels.pose_scores import reference
from benchmarks.harness import Case

PART = "ops"
POINTS, SIDE, IMAGE = 128, 28, 112
SEARCHED, LEARNED = 600, 225  # poses
# of a point under a pose: two rotations, a projection, two exponentials, five bilinear samples and their products
OPERATIONS = 130
GEOMETRY = (2, 3, 4, 5, 6)  # inputs without a gradient


def case(batch: int, poses: int, device: torch.device, backward: bool) -> Case:
    def inputs(generator: torch.Generator) -> tuple:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device)

        camera = draw(batch, 3, 3) * 0 + torch.tensor(
            [[240.0, 0, 55], [0, 240, 56], [0, 0, 1]], device=generator.device
        )
        return (
            draw(batch, POINTS, SIDE, SIDE),
            draw(batch, 4, SIDE, SIDE),
            0.05 * draw(batch, POINTS, 3),
            F.normalize(draw(batch, POINTS, 3), dim=-1),
            torch.linalg.qr(draw(batch, poses, 3, 3))[0],
            0.03 * draw(batch, poses, 3) + torch.tensor([0, 0, 0.6], device=generator.device),
            camera,
        )

    maps = batch * SIDE * SIDE * (POINTS + 4)
    return Case(
        op="pose_scores",
        shape={"B": batch, "N": POINTS, "K": poses},
        dtype=torch.float32,
        device=device,
        inputs=inputs,
        ours=lambda *tensors: pose_scores(*tensors, image_size=(IMAGE, IMAGE)),
        eager=composed,
        truth=lambda *tensors: reference.pose_scores(*tensors, (IMAGE, IMAGE)),
        flops=float(batch * POINTS * poses * OPERATIONS * (2 if backward else 1)),
        bytes=4.0 * (maps * (2 if backward else 1) + batch * (6 * POINTS + 13 * poses)),
        backward=backward,
        constants=GEOMETRY if backward else (),
    )


def composed(colour, surface, points, normals, rotation, translation, intrinsics) -> Tensor:
    """As a user would write it: einsum, one projection, two calls of grid_sample."""
    batch, number = points.shape[:2]
    seen = torch.einsum("bkij,bnj->bkni", rotation, points) + translation[:, :, None]
    normal = torch.einsum("bkij,bnj->bkni", rotation, normals)
    facing = -F.cosine_similarity(seen, normal, dim=-1)
    pixels = torch.einsum("bij,bknj->bkni", intrinsics, seen / seen[..., 2:].clamp(min=reference.NEAREST_DEPTH))[
        ..., :2
    ]
    at = ((pixels + 0.5) / (IMAGE / 2) - 1).transpose(1, 2)
    sample = {"padding_mode": "border", "align_corners": False}
    own = F.grid_sample(colour.flatten(0, 1)[:, None], at.flatten(0, 1)[:, :, None], **sample)
    shown = F.grid_sample(surface, at, **sample).permute(0, 3, 2, 1)  # [B, K, N, 4]
    score = own.view(batch, number, -1).mT + (shown[..., :3] * normal).sum(-1)
    score = score + shown[..., 3] * torch.exp(-((facing / reference.RIM) ** 2))
    weight = torch.sigmoid(reference.STEEPNESS * (facing - reference.LEAST_FACING))
    return (weight * score).sum(-1) / weight.sum(-1).clamp(min=1)


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        yield case(1, 33, device, backward=True)
        return
    for batch in (1, 16):
        yield case(batch, SEARCHED, device, backward=False)
        yield case(batch, LEARNED, device, backward=True)


def test_pose_scores(case, measured):
    measured(case)
