"""refine beside what PyTorch offers: grid_sample and an MLP, on channels-last and NCHW maps, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from amt.kernels import RefineWeights, refine, use
from amt.kernels.constant import constant
from benchmarks.harness import Case, Rival

PART = "ops"
MAPS = {"pyramid": (16, 32, 64), "single": (16,)}
IMAGE = 224
JOINTS, HIDDEN, STEPS = 21, 256, 2
LARGEST = 2 << 30  # bytes of one set of maps: rivals hold copies of it, and gradients
CPU_BATCHES, GPU_BATCHES = (1, 8, 64, 256), (1, 8, 32, 64, 256, 512)


def case(batch: int, maps: str, channels: int, dtype: torch.dtype, device: torch.device, backward: bool) -> Case:
    sides = MAPS[maps]
    num_inputs = len(sides) * channels + 3
    rows = batch * JOINTS * STEPS
    # w1 f and its two backward products; w2's are a hundredth of them
    flops = 2.0 * rows * HIDDEN * (num_inputs + 3) * (3 if backward else 1)
    taps = 4.0 * rows * len(sides) * channels * dtype.itemsize
    weights = STEPS * HIDDEN * (num_inputs + JOINTS + 3) * dtype.itemsize
    # backward reads the taps again and writes a gradient of every pixel
    pixels = float(batch * channels * sum(side**2 for side in sides) * dtype.itemsize)

    def inputs(generator: torch.Generator, batch: int = batch) -> tuple:
        def normal(*shape):
            return torch.randn(shape, generator=generator, device=generator.device)

        joints = normal(batch, JOINTS, 3) * 0.06 + torch.tensor([0.0, 0.0, 0.7], device=generator.device)
        camera = torch.tensor([[500.0, 0, 112], [0, 500, 112], [0, 0, 1]], device=generator.device)
        return (
            joints,
            camera.repeat(batch, 1, 1),
            tuple(normal(batch, side, side, channels).to(dtype) for side in sides),
            (normal(STEPS, HIDDEN, num_inputs) / num_inputs**0.5).to(dtype),
            (normal(STEPS, JOINTS, HIDDEN) * 0.1).to(dtype),
            (normal(STEPS, 3, HIDDEN) * 0.02 / HIDDEN**0.5).to(dtype),
            (normal(STEPS, 3) * 0.01).to(dtype),
        )

    return Case(
        op="refine",
        shape={"B": batch, "maps": maps, "C": channels},
        dtype=dtype,
        device=device,
        inputs=inputs,
        check=lambda generator: inputs(generator, min(batch, 4)),
        ours=lambda joints, intrinsics, maps, *weights: refine(
            joints, intrinsics, maps, RefineWeights(*weights), image_size=(IMAGE, IMAGE)
        ),
        eager=lambda joints, intrinsics, maps, *weights: plain_refine(joints, intrinsics, _nchw(maps), *weights),
        # maps and weights of two bytes as float32: faster where a processor has no matrix unit for them, and often where it has
        rivals={"eager NCHW": Rival(plain_refine, _contiguous_nchw)}
        | ({} if dtype == torch.float32 or backward else {"eager in float32": Rival(plain_refine, _widened_nchw)}),
        variants=_variants() if device.type == "cuda" else {},
        flops=flops,
        bytes=taps + weights if not backward else 2 * (taps + weights) + pixels,
        backward=backward,
        samples=batch,
    )


def _variants() -> dict[str, Callable]:
    """The implementations among which the sizes decide on a GPU."""
    from amt.kernels.refine import triton

    def cuda(joints, intrinsics, maps, *weights):
        with use("cuda"):
            return refine(joints, intrinsics, maps, RefineWeights(*weights), image_size=(IMAGE, IMAGE))

    def in_triton(form: str) -> Callable:
        return lambda joints, intrinsics, maps, *weights: triton.refine(
            joints, intrinsics, maps, *weights, (IMAGE, IMAGE), 1.0, True, form
        )

    return {"cuda": cuda, **{f"triton {form}": in_triton(form) for form in ("two_kernel", "single")}}


def plain_refine(
    joints: torch.Tensor,
    intrinsics: torch.Tensor,
    maps: Sequence[torch.Tensor],  # [B, C, H, W]
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    image_size: tuple[int, int] = (IMAGE, IMAGE),
    step_size: float = 1.0,
    detach: bool = True,
) -> torch.Tensor:  # [B, S, J, 3]
    """``refine`` as a user of PyTorch writes it: coordinates and sampling in float32, the MLP in the dtype of the weights."""
    height, width = image_size
    scale = constant((2 / width, 2 / height), joints)  # a user who wants a CUDA graph makes it once
    maps = [m.to(joints.dtype) for m in maps]  # grid_sample takes the coordinates in the map's dtype: cast once
    steps = []
    for k in range(w1.shape[0]):
        if detach and k > 0:
            joints = joints.detach()
        depth = joints[..., 2:]
        visible = depth > 1e-3
        pixels = (joints @ intrinsics.mT)[..., :2] / torch.where(visible, depth, 1.0)
        grid = torch.where(visible, (pixels + 0.5) * scale - 1, 9.0)[:, :, None]
        samples = [F.grid_sample(m, grid, align_corners=False)[..., 0].mT for m in maps]
        inputs = torch.cat([*samples, (joints - joints[:, :1]) / 0.1], dim=-1).to(w1.dtype)
        offsets = F.linear(F.gelu(F.linear(inputs, w1[k]) + b1[k]), w2[k], b2[k])
        joints = joints + step_size / 2**k * offsets.to(joints.dtype)
        steps.append(joints)
    return torch.stack(steps, dim=1)


def _nchw(maps):
    return tuple(m.permute(0, 3, 1, 2) for m in maps)


def _contiguous_nchw(joints, intrinsics, maps, *weights):
    return joints, intrinsics, tuple(m.contiguous() for m in _nchw(maps)), *weights


def _widened_nchw(joints, intrinsics, maps, *weights):
    return joints, intrinsics, _nchw([m.float() for m in maps]), *(w.float() for w in weights)


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        yield case(2, "single", 32, torch.float32, device, backward=False)
        yield case(2, "pyramid", 32, torch.bfloat16, device, backward=True)
        return
    for batch in GPU_BATCHES if device.type == "cuda" else CPU_BATCHES:
        for maps, sides in MAPS.items():
            for channels in (256, 1024):
                for dtype in (torch.float32, torch.bfloat16):
                    if batch * channels * sum(side**2 for side in sides) * dtype.itemsize > LARGEST:
                        continue
                    for backward in (False, True):
                        yield case(batch, maps, channels, dtype, device, backward)


def test_refine(case, measured):
    measured(case)
