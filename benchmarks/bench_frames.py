"""hand_frames and frame_pointnet beside the composed PyTorch that they replace, from one hand to a training batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amt.kernels import frame_pointnet, hand_frames
from amt.kernels.frame_pointnet import reference as pointnet_reference
from amt.kernels.hand_frames import NUM_FRAMES, NUM_JOINTS
from amt.kernels.hand_frames import reference as frames_reference
from amt.kernels.hand_frames.reference import INDEX_BASE, LITTLE_BASE
from benchmarks.harness import Case, Rival

PART = "ops"
HIDDEN, FEATURES = 64, 128
BATCHES = (1, 16, 128, 512)
POINTS = (21, 778, 2048)
# a scale, two roots, three divisions and about 100 multiply-adds a bone; backward computes them again and as many more
OPERATIONS_PER_BONE = 220


def frames_case(batch: int, device: torch.device, backward: bool) -> Case:
    def inputs(generator: torch.Generator) -> tuple:
        return (0.05 * torch.randn(batch, NUM_JOINTS, 3, generator=generator, device=generator.device),)

    passes = 3 if backward else 1
    return Case(
        op="hand_frames",
        shape={"B": batch},
        dtype=torch.float32,
        device=device,
        inputs=inputs,
        ours=hand_frames,
        eager=composed_frames,
        truth=frames_reference.hand_frames,
        flops=float(passes * batch * 20 * OPERATIONS_PER_BONE),
        bytes=4.0 * batch * (3 * NUM_JOINTS + 12 * NUM_FRAMES) * (2 if backward else 1),
        backward=backward,
    )


def pointnet_case(batch: int, points: int, dtype: torch.dtype, device: torch.device, backward: bool) -> Case:
    def inputs(generator: torch.Generator, batch: int = batch) -> tuple:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device)

        origins, rotations = frames_reference.hand_frames(0.05 * draw(batch, NUM_JOINTS, 3))
        weights = (draw(HIDDEN, 3), 0.5 * draw(NUM_FRAMES, HIDDEN), draw(FEATURES, HIDDEN) / 8, 0.1 * draw(FEATURES))
        return 0.05 * draw(batch, points, 3), origins, rotations, *(w.to(dtype) for w in weights)

    pairs = batch * NUM_FRAMES
    flops = 2.0 * pairs * points * HIDDEN * (3 + FEATURES)
    outputs = pairs * FEATURES
    traffic = 4.0 * (batch * points * 3 + pairs * 12 + outputs) + dtype.itemsize * HIDDEN * (FEATURES + 3 + NUM_FRAMES)
    if backward:  # only the winning points: their hidden units, two products with w2
        flops += 2.0 * outputs * HIDDEN * (3 + 3 + 2)
        traffic = 2 * traffic + 8.0 * outputs
    return Case(
        op="frame_pointnet",
        shape={"B": batch, "N": points},
        dtype=dtype,
        device=device,
        inputs=inputs,
        check=lambda generator: inputs(generator, min(batch, 2)),
        ours=frame_pointnet,
        eager=composed_pointnet,
        truth=pointnet_reference.frame_pointnet,
        # weights of two bytes in float32 arithmetic: faster than bf16 where a CPU has no matrix unit
        rivals={} if dtype == torch.float32 else {"eager in float32": Rival(pointnet_reference.frame_pointnet)},
        flops=flops,
        bytes=traffic,
        backward=backward,
    )


def composed_frames(joints: Tensor) -> tuple[Tensor, Tensor]:
    """The frames as a user would write them: all five fingers at once, four bones one after the other, no degenerate cases."""
    wrist, index, little = joints[:, 0], joints[:, INDEX_BASE], joints[:, LITTLE_BASE]
    z = normalize((index - wrist) + (little - wrist), dim=-1)
    x = torch.linalg.cross(z, normalize(torch.linalg.cross(index - wrist, little - wrist), dim=-1))
    palm = torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)
    fingers = joints[:, 1:].unflatten(1, (5, 4))  # from base to tip
    parents = torch.cat([wrist[:, None, None].expand(-1, 5, 1, 3), fingers[:, :, :-1]], dim=2)
    bones = normalize(fingers - parents, dim=-1)
    frame, chain = palm[:, None].expand(-1, 5, -1, -1), []
    for k in range(4):
        half = normalize(frame[..., 2] + bones[:, :, k], dim=-1)
        reflected = frame - 2 * half[..., None] * (half[..., None, :] @ frame)
        frame = torch.cat([reflected[..., :2], -reflected[..., 2:]], dim=-1)
        chain.append(frame)
    base, lower, upper, tip = chain
    rotations = torch.cat(
        [tip, base, torch.stack([lower, upper], dim=2).flatten(1, 2), palm[:, None], palm[:, None]], dim=1
    )
    bases = fingers[:, :, 0]
    center = torch.cat([wrist[:, None], bases], dim=1).mean(dim=1, keepdim=True)
    return torch.cat(
        [fingers[:, :, 3], bases, fingers[:, :, 1:3].flatten(1, 2), wrist[:, None], center], dim=1
    ), rotations


def composed_pointnet(points, origins, rotations, w1, b1, w2, b2):
    """Local coordinates of every point in every frame, two layers, the maximum: in the weights' dtype."""
    local = ((points[:, None] - origins[:, :, None]) @ rotations / pointnet_reference.UNIT).to(w1.dtype)
    return (torch.relu(local @ w1.T + b1[:, None]) @ w2.T + b2).amax(dim=2).to(points.dtype)


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        yield frames_case(16, device, backward=True)
        yield pointnet_case(2, 63, torch.float32, device, backward=True)
        return
    for batch in BATCHES:
        for backward in (False, True):
            yield frames_case(batch, device, backward)
    batches = BATCHES if device.type == "cuda" else BATCHES[:2]  # composed, a batch of 512 writes tens of gigabytes
    for points in POINTS:
        for batch in batches:
            for dtype in (torch.float32, torch.bfloat16):
                for backward in (False, True):
                    yield pointnet_case(batch, points, dtype, device, backward)


def test_frames(case, measured):
    measured(case)
