"""``frame_pointnet``: points seen from every frame, through a two-layer PointNet with a max over the points.

For each frame f: ``max over n of  w2 relu(w1 R_f^T (p_n - o_f) / 0.1 m + b1_f) + b2``. The result never exists per point:
nothing of size B x F x N is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _native, _triton
from amt.kernels.frame_pointnet import reference


def frame_pointnet(
    points: Tensor,  # [B, N, 3]
    origins: Tensor,  # [B, F, 3]
    rotations: Tensor,  # [B, F, 3, 3]
    w1: Tensor,  # [D1, 3]
    b1: Tensor,  # [F, D1]
    w2: Tensor,  # [D2, D1]
    b2: Tensor,  # [D2]
    mask: Tensor | None = None,  # [B, N]
) -> Tensor:  # [B, F, D2]
    """Encodes a point set in each of F local frames.

    No double backward, except with ``amt.kernels.use("reference")``. Under torch.func (vmap, grad, jvp, ...) and in forward-mode
    AD the reference runs, with one warning.

    Args:
        points: float32 or float64 [B, N, 3], metres, in the frame in which origins and rotations are given.
        origins, rotations: same dtype, [B, F, 3] metres and [B, F, 3, 3] (columns are the axes), as ``hand_frames`` returns.
        w1, b1, w2, b2: the MLP, all of one dtype: the points', float16 or bfloat16. [D1, 3], [F, D1], [D2, D1], [D2].
        mask: bool [B, N], False where a point does not count; a frame without a valid point returns zeros.

    Returns:
        [B, F, D2] in the dtype of ``points``. Only the winning point of each feature gets a gradient, of equal points the
        first. NaN comes out only in the images in which it came in, or everywhere if it came with a weight.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device; the message names it.
    """
    op = "frame_pointnet"
    coordinates = (torch.float32, torch.float64)
    _checks.tensor(op, "points", points, ("B", "N", 3), coordinates)
    batch, num_points = points.shape[:2]
    _checks.tensor(op, "origins", origins, (batch, "F", 3), (points.dtype,), like=points)
    num_frames = origins.shape[1]
    _checks.tensor(op, "rotations", rotations, (batch, num_frames, 3, 3), (points.dtype,), like=points)
    dtypes = (torch.float16, torch.bfloat16, torch.float32) if points.dtype == torch.float32 else (torch.float64,)
    _checks.tensor(op, "w1", w1, ("D1", 3), dtypes, like=points)
    hidden = w1.shape[0]
    _checks.tensor(op, "b1", b1, (num_frames, hidden), (w1.dtype,), like=points)
    _checks.tensor(op, "w2", w2, ("D2", hidden), (w1.dtype,), like=points)
    _checks.tensor(op, "b2", b2, (w2.shape[0],), (w1.dtype,), like=points)
    if mask is not None:
        _checks.tensor(op, "mask", mask, (batch, num_points), (torch.bool,), like=points)
    return _backend.choose(op, points.device, w1.dtype)(points, origins, rotations, w1, b1, w2, b2, mask)


def _load_native():
    from amt.kernels.frame_pointnet.native import frame_pointnet

    return frame_pointnet


def _load_triton():
    from amt.kernels.frame_pointnet.triton import frame_pointnet

    return frame_pointnet


def _no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    return "it computes in float32 at most" if dtype == torch.float64 else _triton.missing(device)


_backend.register(
    "frame_pointnet",
    [
        _backend.Implementation("native", _load_native, _native.reason_on("frame_pointnet", "cpu")),
        _backend.Implementation("triton", _load_triton, _no_triton),
        _backend.Implementation(
            "reference", lambda: reference.frame_pointnet, _backend.runs_everywhere, fast=False, transforms=True
        ),
    ],
)
