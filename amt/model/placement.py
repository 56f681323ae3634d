"""From what a crop shows to metres in the camera's frame, and what the crop's camera tells the network.

A crop alone cannot say how far a hand is, nor how it is turned against the optical axis: both follow from the intrinsics
of the crop, which hold the box (its angular size and direction), so that scaling a frame together with its K changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.hand.camera import MIN_DEPTH, project, unproject

REFERENCE_LENGTH = 0.18  # m: what a crop typically spans; a log depth of 0 means that it spans just this
MAX_LOG_DEPTH = 2.0  # the predicted depth stays within a factor e^2 of the reference
NUM_CAMERA_FEATURES = 4


def _centre_ray(intrinsics: Tensor, size: int) -> Tensor:
    """The point at depth 1 m behind the crop's centre, [B, 3]."""
    centre = intrinsics.new_full((intrinsics.shape[0], 1, 2), (size - 1) / 2)
    return unproject(centre, intrinsics.new_ones(intrinsics.shape[0], 1), intrinsics)[:, 0]


def _focal(intrinsics: Tensor) -> Tensor:
    return (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt()


def view_rotation(intrinsics: Tensor, size: int) -> Tensor:
    """The shortest turn [B, 3, 3] that takes the optical axis to the ray through the crop's centre.

    A hand looks the same wherever it stands in the frame only when its rotation is told relative to that ray.
    """
    z = torch.nn.functional.normalize(_centre_ray(intrinsics, size), dim=-1)
    x, y, c = z.unbind(-1)
    k = 1 / (1 + c)  # c > 0: the ray points forward
    return torch.stack((1 - k * x * x, -k * x * y, x, -k * x * y, 1 - k * y * y, y, -x, -y, c), -1).unflatten(
        -1, (3, 3)
    )


def camera_features(intrinsics: Tensor, size: int) -> Tensor:
    """Direction of the crop's centre, its angular size and the aspect of the focal lengths, [B, 4]; about unit scale."""
    ray = _centre_ray(intrinsics, size)
    angular = torch.log(size / _focal(intrinsics)) + 1.0
    aspect = torch.log(intrinsics[:, 0, 0] / intrinsics[:, 1, 1])
    return torch.stack((ray[:, 0], ray[:, 1], angular, aspect), dim=-1)


def place(position: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """The point [B, 3] (m) of a predicted position [B, 3]: x and y in half crops from its centre, and a log depth."""
    pixels = (size - 1) / 2 + position[:, None, :2] * (size / 2)
    log_depth = position[:, 2:].clamp(-MAX_LOG_DEPTH, MAX_LOG_DEPTH)
    depth = log_depth.exp() * reference_depth(intrinsics, size)[:, None]
    return unproject(pixels, depth, intrinsics)[:, 0]


def reference_depth(intrinsics: Tensor, size: int) -> Tensor:
    """The depth [B] (m) at which the crop spans the reference length."""
    return _focal(intrinsics) * (REFERENCE_LENGTH / size)


def keypoint_rays(position: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """The rays x/z, y/z [B, N, 2] through positions [B, N, 2] in the crop, in half crops from its centre."""
    pixels = (size - 1) / 2 + position * (size / 2)
    return unproject(pixels, torch.ones_like(pixels[..., 0]), intrinsics)[..., :2]


def locate(points: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """The position [B, 3] that :func:`place` turns into the points [B, 3] (m)."""
    pixels = project(points[:, None], intrinsics)[:, 0]
    log_depth = (points[:, 2].clamp(min=MIN_DEPTH) / reference_depth(intrinsics, size)).log()
    return torch.cat(((pixels - (size - 1) / 2) / (size / 2), log_depth[:, None]), dim=-1)
