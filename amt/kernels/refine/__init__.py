"""``refine``: moves joints by what the feature maps show where they project, S times with halving steps.

Step k, for every joint j of every image::

    f     = [bilinear samples of all maps at the projection of joint j,  (joint j - wrist) / 0.1 m]
    joint += step_size / 2**k * (w2[k] gelu(w1[k] f + b1[k, j]) + b2[k])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _native, _triton
from amt.kernels.refine import reference

MAX_MAPS = 4


class RefineWeights(NamedTuple):
    """The offset MLP of every step; expand the first dimension to share one MLP among the steps."""

    w1: Tensor  # [S, D, C + 3]
    b1: Tensor  # [S, J, D]: one bias a joint tells the joints apart
    w2: Tensor  # [S, 3, D]
    b2: Tensor  # [S, 3], m


def refine(
    joints: Tensor,  # [B, J, 3]
    intrinsics: Tensor,  # [B, 3, 3]
    maps: Sequence[Tensor],  # L x [B, H_l, W_l, C_l]
    weights: RefineWeights,
    *,
    image_size: tuple[int, int],
    step_size: float = 1.0,
    detach: bool = True,
) -> Tensor:  # [B, S, J, 3]
    """Refines ``joints`` in S steps by what the maps hold where they project; every step is returned.

    Sampling is bilinear with ``align_corners=False`` and zeros outside. A joint at z <= 1 mm, or whose projection is not
    finite, samples zeros and sends no gradient through its projection.

    Sums are in float32 at least. Where no backward follows, the CPU may multiply bfloat16 maps and weights otherwise, by matrix
    tiles or in fixed point: the results then differ from those of a forward with a graph, by no more than samples rounded to
    bfloat16 make.

    Args:
        joints: float32 or float64 [B, J, 3], metres, camera frame; joint 0 is the wrist.
        intrinsics: same dtype [B, 3, 3], pixels of the image that the maps cover, never of a map's own grid; the last row
            is taken as 0, 0, 1.
        maps: one to four maps [B, H, W, C], all float16, bfloat16 or float32 (float64 exactly with float64 joints). Channels
            last in memory too; the other strides are free.
        weights: the MLP of each step, in the maps' dtype or the joints'.
        image_size: height and width in pixels of the image that ``intrinsics`` and ``maps`` cover.
        step_size: metres per unit of the MLP's output in the first step; step k takes ``step_size / 2**k``.
        detach: cut the joints that enter steps 1, 2, ... from the graph, so that each step answers for its own offset only.

    Returns:
        [B, S, J, 3] in the joints' dtype: the joints after each step.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device; the message names it.
    """
    maps = tuple(maps)
    try:
        run = _backend.choose("refine", joints.device, maps[0].dtype)
        # the native op looks at its arguments itself, in a tenth of the time, which counts with a single image
        if run.__module__ != "amt.kernels.refine.native" or torch.compiler.is_compiling():
            _check(joints, intrinsics, maps, weights, image_size)
        height, width = image_size
        return run(joints, intrinsics, maps, *weights, (int(height), int(width)), float(step_size), bool(detach))
    except Exception:
        _check(joints, intrinsics, maps, weights, image_size)  # says what is wrong, and how to mend it
        raise


def _check(joints: Tensor, intrinsics: Tensor, maps: tuple[Tensor, ...], weights: RefineWeights, image_size) -> None:
    coordinates = (torch.float32, torch.float64)
    _checks.tensor("refine", "joints", joints, ("B", "J", 3), coordinates)
    batch, num_joints = joints.shape[:2]
    _checks.tensor("refine", "intrinsics", intrinsics, (batch, 3, 3), (joints.dtype,), like=joints)
    if not 1 <= len(maps) <= MAX_MAPS:
        raise ValueError(f"refine: maps must hold 1 to {MAX_MAPS} maps, got {len(maps)}")
    dtypes = _checks.FLOATS if joints.dtype == torch.float32 else (torch.float64,)
    for i, feature_map in enumerate(maps):
        _checks.tensor("refine", f"maps[{i}]", feature_map, (batch, "H", "W", "C"), dtypes, like=joints)
        if feature_map.dtype != maps[0].dtype:
            raise TypeError(f"refine: maps[{i}] must be {maps[0].dtype} as maps[0] is, got {feature_map.dtype}")
        if feature_map.stride(3) != 1 and feature_map.shape[3] > 1:
            raise ValueError(
                f"refine: maps[{i}] must be channels last in memory (stride 1 of C), got the strides "
                f"{feature_map.stride()}: make it so where it is produced, e.g. with .contiguous()"
            )
    channels = sum(feature_map.shape[3] for feature_map in maps)
    dtypes = (maps[0].dtype, joints.dtype)
    w1, b1, w2, b2 = weights
    _checks.tensor("refine", "weights.w1", w1, ("S", "D", channels + 3), dtypes, like=joints)
    num_steps, hidden = w1.shape[:2]
    _checks.tensor("refine", "weights.b1", b1, (num_steps, num_joints, hidden), dtypes, like=joints)
    _checks.tensor("refine", "weights.w2", w2, (num_steps, 3, hidden), dtypes, like=joints)
    _checks.tensor("refine", "weights.b2", b2, (num_steps, 3), dtypes, like=joints)
    if num_steps < 1:
        raise ValueError("refine: weights must hold at least one step, got 0")
    if len(image_size) != 2 or not all(size > 0 for size in image_size):
        raise ValueError(f"refine: image_size must be a positive (height, width), got {image_size}")


def _load_native():
    from amt.kernels.refine.native import refine

    return refine


def _load_triton():
    from amt.kernels.refine.triton import refine

    return refine


def _not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    return "it takes no float64" if dtype == torch.float64 else _triton.missing(device)


_not_cuda = _native.reason_on("refine", "cuda")

# Up to this many images, called one by one, CUDA's single launch costs the least time on the host (H200: 0.10 ms against 0.16 ms
# at 8 images); the kernels themselves take a third of its time in Triton, which counts once the host is out of the way.
SMALL_BATCH = 8


def _by_batch(joints: Tensor, *arguments) -> Tensor:
    from amt.kernels.refine import native, triton

    small = joints.shape[0] <= SMALL_BATCH and joints.shape[1] <= native.CUDA_MOST_JOINTS
    if small and not torch.compiler.is_compiling() and not torch.cuda.is_current_stream_capturing():
        return native.refine(joints, *arguments)
    return triton.refine(joints, *arguments)


def _not_by_batch(device: torch.device, dtype: torch.dtype) -> str | None:
    return _not_cuda(device, dtype) or _not_triton(device, dtype)


_backend.register(
    "refine",
    [
        _backend.Implementation("native", _load_native, _native.reason_on("refine", "cpu")),
        _backend.Implementation("cuda or triton, by the batch", lambda: _by_batch, _not_by_batch),
        _backend.Implementation("triton", _load_triton, _not_triton),
        _backend.Implementation("cuda", _load_native, _not_cuda),
        _backend.Implementation("reference", lambda: reference.refine, _backend.runs_everywhere, fast=False),
    ],
)
