"""``refine``: moves joints by what the feature maps show where they project, S times with halving steps.

Step k, for every joint j of every image::

    f     = [bilinear samples of all maps at the projection of joint j,  (joint j - wrist) / 0.1 m]
    joint += step_size / 2**k * (w2[k] gelu(w1[k] f + b1[k, j]) + b2[k])
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _native, _triton
from amt.kernels.refine import choice, reference

MAX_MAPS = 4
_INFINITE = float("inf")
MAX_STEPS = 62  # the last one moves the joints by 2**-61 of the first
# of the maps, by the dtype of the joints
_MAP_DTYPES = {torch.float32: (torch.float32, torch.bfloat16, torch.float16), torch.float64: (torch.float64,)}


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
    """Refines ``joints`` in S steps by what the maps hold where they project, and returns the joints after every step.

    Sampling is bilinear with ``align_corners=False`` and zeros outside. A joint at z <= 1 mm, or one without a finite projection,
    samples zeros and sends no gradient through its projection. NaN comes out only where it came in.

    Products and sums are in float32 at least, in the dtype of ``joints``. Weights in the dtype of bfloat16 or float16 maps let an
    implementation round the samples to that dtype, for tensor cores. Under no_grad the CPU may then use AMX or int16 arithmetic:
    its results can differ from the training forward by about one bfloat16 rounding of the samples.

    No double backward, except with ``amt.kernels.use("reference")``. Under torch.func (vmap, grad, jvp, ...) and in forward-mode
    AD the reference runs, with one warning.

    Args:
        joints: float32 or float64 [B, J, 3], metres, camera frame; joint 0 is the wrist.
        intrinsics: same dtype [B, 3, 3], pixels of the image that the maps cover, never of a map's own grid; the last row
            is taken as 0, 0, 1.
        maps: one to four maps [B, H, W, C], all float16, bfloat16 or float32 (float64 exactly with float64 joints), none empty.
            Channels last in memory too; the other strides are free.
        weights: the MLP of each step, in the maps' dtype or the joints'; 1 to 62 steps, at least one hidden unit.
        image_size: height and width, whole pixels, of the image that ``intrinsics`` and ``maps`` cover.
        step_size: metres per unit of the MLP's output in the first step; step k takes ``step_size / 2**k``.
        detach: cut the joints that enter steps 1, 2, ... from the graph, so that each step's gradient is its own offset's.

    Returns:
        [B, S, J, 3] in the joints' dtype: the joints after each step.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device; the message names it.
    """
    if type(maps) is not tuple:
        if isinstance(maps, Tensor):
            raise TypeError("refine: maps must be a sequence of tensors, got one tensor: pass [maps]")
        if not isinstance(maps, Iterable):
            raise TypeError(f"refine: maps must be a sequence of tensors, got {type(maps).__name__}")
        maps = tuple(maps)
    if not _is_valid(joints, intrinsics, maps, weights, image_size, step_size, detach):
        _check(joints, intrinsics, maps, weights, image_size, step_size, detach)
    run = _backend.choose("refine", joints.device, maps[0].dtype)
    height, width = image_size
    return run(joints, intrinsics, maps, *weights, (int(height), int(width)), float(step_size), detach)


def _is_valid(joints, intrinsics, maps: tuple, weights, image_size, step_size, detach) -> bool:
    """Whether the arguments are plainly right. Otherwise :func:`_check` decides, and says what is wrong.

    Made for speed: it takes 3 µs, and :func:`_check` 15 µs of a call of 100 µs (one image on the CPU).
    """
    try:
        w1, b1, w2, b2 = weights
        height, width = image_size
        if joints.layout is not torch.strided or intrinsics.layout is not torch.strided:
            return False
        batch, num_joints, three = joints.shape
        steps, hidden, inputs = w1.shape
        dtype, map_dtype, device = joints.dtype, maps[0].dtype, joints.device
        channels = 3
        for feature_map in maps:
            images, rows, columns, map_channels = feature_map.shape
            if not (
                images == batch
                and rows > 0
                and columns > 0
                and map_channels > 0
                and feature_map.stride()[3] == 1
                and feature_map.dtype is map_dtype
                and feature_map.device == device
            ):
                return False
            channels += map_channels
        for weight in weights:
            if weight.layout is not torch.strided or weight.device != device:
                return False
            if weight.dtype is not dtype and weight.dtype is not map_dtype:
                return False
        return (
            type(height) is int
            and type(width) is int
            and height > 0
            and width > 0
            and len(maps) <= MAX_MAPS
            and three == 3
            and inputs == channels
            and hidden > 0
            and 0 < steps <= MAX_STEPS
            and intrinsics.shape == (batch, 3, 3)
            and intrinsics.dtype is dtype
            and intrinsics.device == device
            and b1.shape == (steps, num_joints, hidden)
            and w2.shape == (steps, 3, hidden)
            and b2.shape == (steps, 3)
            and map_dtype in _MAP_DTYPES[dtype]
            and (type(step_size) is float or type(step_size) is int)
            and -_INFINITE < step_size < _INFINITE
            and (detach is True or detach is False)
        )
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False


def _check(joints, intrinsics, maps: tuple, weights, image_size, step_size, detach) -> None:
    """Raises an error that names the argument that is wrong, what was expected and what came."""
    _checks.tensor("refine", "joints", joints, ("B", "J", 3), tuple(_MAP_DTYPES))
    batch, num_joints = joints.shape[:2]
    _checks.tensor("refine", "intrinsics", intrinsics, (batch, 3, 3), (joints.dtype,), like=joints)
    if not 1 <= len(maps) <= MAX_MAPS:
        raise ValueError(f"refine: maps must hold 1 to {MAX_MAPS} maps, got {len(maps)}")
    dtypes = _MAP_DTYPES[joints.dtype]
    for i, feature_map in enumerate(maps):
        _checks.tensor("refine", f"maps[{i}]", feature_map, (batch, "H", "W", "C"), dtypes, like=joints)
        if feature_map.dtype != maps[0].dtype:
            raise TypeError(f"refine: maps[{i}] must be {maps[0].dtype} as maps[0] is, got {feature_map.dtype}")
        if 0 in feature_map.shape[1:]:
            raise ValueError(
                f"refine: maps[{i}] must hold at least one cell and channel, got {list(feature_map.shape)}"
            )
        if feature_map.stride(3) != 1 and feature_map.shape[3] > 1:
            raise ValueError(
                f"refine: maps[{i}] must be channels last in memory (stride 1 of C), got the strides "
                f"{feature_map.stride()}: make it so where it is produced, e.g. with .contiguous(); a map [B, C, H, W] first "
                "with .permute(0, 2, 3, 1)"
            )
    if not isinstance(weights, Sequence) or len(weights) != 4:
        what = f"{len(weights)} values" if isinstance(weights, Sequence) else type(weights).__name__
        raise TypeError(f"refine: weights must be RefineWeights(w1, b1, w2, b2), got {what}")
    channels = sum(feature_map.shape[3] for feature_map in maps)
    dtypes = (maps[0].dtype, joints.dtype)
    w1, b1, w2, b2 = weights
    if _looks_like_nchw(maps, w1, channels):
        raise ValueError(
            f"refine: maps must be channels last, [B, H, W, C]; weights.w1 takes {w1.shape[2] - 3} channels and the maps' "
            f"shapes {[list(m.shape) for m in maps]} look like [B, C, H, W]: pass m.permute(0, 2, 3, 1).contiguous() of each"
        )
    _checks.tensor("refine", "weights.w1", w1, ("S", "D", channels + 3), dtypes, like=joints)
    steps, hidden = w1.shape[:2]
    _checks.tensor("refine", "weights.b1", b1, (steps, num_joints, hidden), dtypes, like=joints)
    _checks.tensor("refine", "weights.w2", w2, (steps, 3, hidden), dtypes, like=joints)
    _checks.tensor("refine", "weights.b2", b2, (steps, 3), dtypes, like=joints)
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"refine: weights must hold at least one step and at most {MAX_STEPS}, got {steps}")
    if hidden < 1:
        raise ValueError("refine: weights must hold at least one hidden unit, got 0")
    _checks.image_size("refine", image_size)
    if isinstance(step_size, bool) or not isinstance(step_size, (numbers.Real, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"refine: step_size must be a number of metres, got {type(step_size).__name__}")
    if not -_INFINITE < step_size < _INFINITE:
        raise ValueError(f"refine: step_size must be finite, got {step_size}")
    if not isinstance(detach, bool):
        raise TypeError(f"refine: detach must be True or False, got {detach!r}")


def _looks_like_nchw(maps: tuple, w1, channels: int) -> bool:
    """Whether w1 fits the maps' second dimensions and not their last ones."""
    is_weight = isinstance(w1, Tensor) and w1.dim() == 3
    return is_weight and w1.shape[2] - 3 == sum(m.shape[1] for m in maps) != channels


def _load_native():
    from amt.kernels.refine import native

    return native.refine


def _load_triton():
    from amt.kernels.refine import triton

    return triton.refine


def _load_by_size():
    device = torch.device("cuda")
    implementations = {"reference": reference.refine}
    if _native.missing("refine", "cuda") is None:
        implementations["cuda"] = _load_native()
    if _triton.missing(device) is None:
        implementations["triton"] = _load_triton()
    return functools.partial(choice.refine, implementations=implementations)


def _not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    return "it takes no float64" if dtype == torch.float64 else _triton.missing(device)


def _not_by_size(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "it runs on CUDA tensors only"
    not_cuda, not_triton = _not_cuda(device, dtype), _not_triton(device, dtype)
    return f"cuda: {not_cuda}; triton: {not_triton}" if not_cuda and not_triton else None


_not_cuda = _native.reason_on("refine", "cuda")

_backend.register(
    "refine",
    [
        _backend.Implementation("native", _load_native, _native.reason_on("refine", "cpu")),
        _backend.Implementation("cuda or triton, by size", _load_by_size, _not_by_size),
        _backend.Implementation("triton", _load_triton, _not_triton),
        _backend.Implementation("cuda", _load_native, _not_cuda),
        _backend.Implementation(
            "reference", lambda: reference.refine, _backend.runs_everywhere, fast=False, transforms=True
        ),
    ],
)
