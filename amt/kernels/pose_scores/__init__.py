"""``pose_scores``: how well poses of an object fit what an image shows, by where each of its surface points would be seen.

For pose k and point n, in the camera's frame ``x = R_k p_n + t_k`` and ``m = R_k q_n`` (the normal)::

    f = -x . m / |x|                                            the cosine to the camera
    s = colour_n(x) + surface_0..2(x) . m + surface_3(x) exp(-(f / 0.2)^2)
    w = sigmoid(12 (f - 0.1))                                   points that face away do not count
    score_k = sum over n of w s / max(1, sum over n of w)

where ``map(x)`` is the bilinear sample at the projection of x. Every point has a colour map of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _native, _triton
from amt.kernels.pose_scores import reference
from amt.kernels.pose_scores.reference import SURFACE_CHANNELS

__all__ = ["SURFACE_CHANNELS", "pose_scores"]


def pose_scores(
    colour: Tensor,  # [B, N, H, W]
    surface: Tensor,  # [B, 4, H, W]
    points: Tensor,  # [B, N, 3]
    normals: Tensor,  # [B, N, 3]
    rotation: Tensor,  # [B, K, 3, 3]
    translation: Tensor,  # [B, K, 3]
    intrinsics: Tensor,  # [B, 3, 3]
    *,
    image_size: tuple[int, int],
) -> Tensor:  # [B, K]
    """Scores K poses of each image's object; nothing of size B x N x K is written.

    Sampling is bilinear with ``align_corners=False``; what lies outside takes the nearest cell of the border. A point nearer than
    1 mm, or behind the camera, is projected as if it lay at 1 mm. NaN comes out only in the images in which it came in.

    ``colour`` and ``surface`` get gradients of any order. The reference runs, whatever ``amt.kernels.use`` says, where another
    argument requires one, and under torch.func (vmap, grad, ...), there with one warning. There is no forward-mode AD.

    Args:
        colour: float32 or float64, one map a point, how well a cell goes with the point's colour; at least one cell.
        surface: same dtype, four maps for all points: a vector that is compared with the normals, and the score of a point at
            the rim. The maps cover the image.
        points, normals: same dtype, metres and directions in the object's frame.
        rotation, translation: same dtype, from the object's frame to the camera's, metres.
        intrinsics: same dtype, pixels of the image; the last row is taken as 0, 0, 1.
        image_size: height and width, whole pixels, of the image that ``intrinsics`` and the maps cover.

    Returns:
        [B, K] in the dtype of ``points``. 0 where there is no point.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device; the message names it.
    """
    op = "pose_scores"
    _checks.tensor(op, "colour", colour, ("B", "N", "H", "W"), (torch.float32, torch.float64))
    batch, count, height, width = colour.shape
    if height == 0 or width == 0:
        raise ValueError(f"{op}: colour must hold at least one cell, got {list(colour.shape)}")
    dtypes = (colour.dtype,)
    _checks.tensor(op, "surface", surface, (batch, SURFACE_CHANNELS, height, width), dtypes, like=colour)
    _checks.tensor(op, "points", points, (batch, count, 3), dtypes, like=colour)
    _checks.tensor(op, "normals", normals, (batch, count, 3), dtypes, like=colour)
    _checks.tensor(op, "rotation", rotation, (batch, "K", 3, 3), dtypes, like=colour)
    _checks.tensor(op, "translation", translation, (batch, rotation.shape[1], 3), dtypes, like=colour)
    _checks.tensor(op, "intrinsics", intrinsics, (batch, 3, 3), dtypes, like=colour)
    _checks.image_size(op, image_size)
    size = int(image_size[0]), int(image_size[1])
    arguments = colour, surface, points, normals, rotation, translation, intrinsics, size
    if torch.is_grad_enabled() and any(t.requires_grad for t in (points, normals, rotation, translation, intrinsics)):
        return reference.pose_scores(*arguments)
    return _backend.choose(op, colour.device, colour.dtype)(*arguments)


def _load_native():
    from amt.kernels.pose_scores.native import pose_scores

    return pose_scores


def _load_triton():
    from amt.kernels.pose_scores.triton import pose_scores

    return pose_scores


def _no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    return "it computes in float32" if dtype == torch.float64 else _triton.missing(device)


_backend.register(
    "pose_scores",
    [
        _backend.Implementation("native", _load_native, _native.reason_on("pose_scores", "cpu")),
        _backend.Implementation("triton", _load_triton, _no_triton),
        _backend.Implementation(
            "reference", lambda: reference.pose_scores, _backend.runs_everywhere, fast=False, transforms=True
        ),
    ],
)
