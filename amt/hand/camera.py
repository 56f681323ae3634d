"""The pinhole camera: projection, its inverse, and what a crop does to the intrinsics.

Camera frame in metres, x right, y down, z forward. Pixels: the centre of the top-left pixel is (0, 0). All functions
take tensors or NumPy arrays (converted without a copy where possible) and return tensors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MIN_DEPTH = 1e-3  # m: nearer points (and those behind the camera) are projected as if they lay here


def project(points: Tensor | np.ndarray, intrinsics: Tensor | np.ndarray) -> Tensor:
    """Pixels of points: ``K [x / z, y / z, 1]``, with z not below 1 mm, so that values and gradients stay finite.

    Args:
        points: [..., N, 3], m, camera frame.
        intrinsics: [..., 3, 3], px; its leading dimensions broadcast against those of ``points``.

    Returns:
        [..., N, 2], px.
    """
    points, intrinsics = _tensors(points, intrinsics)
    rays = points[..., :2] / points[..., 2:].clamp(min=MIN_DEPTH)
    return rays @ intrinsics[..., :2, :2].mT + intrinsics[..., None, :2, 2]


def unproject(pixels: Tensor | np.ndarray, depth: Tensor | np.ndarray, intrinsics: Tensor | np.ndarray) -> Tensor:
    """Camera-frame points that lie at ``depth`` (z, not distance) behind ``pixels``.

    Args:
        pixels: [..., N, 2], px.
        depth: [..., N], m.
        intrinsics: [..., 3, 3], px.

    Returns:
        [..., N, 3], m.
    """
    pixels, depth, intrinsics = _tensors(pixels, depth, intrinsics)
    offset = pixels - intrinsics[..., None, :2, 2]
    y = offset[..., 1] / intrinsics[..., None, 1, 1]
    x = (offset[..., 0] - intrinsics[..., None, 0, 1] * y) / intrinsics[..., None, 0, 0]
    return torch.stack((x, y, torch.ones_like(x)), dim=-1) * depth[..., None]


def camera_roll(angle: Tensor | float) -> Tensor:
    """``Rz(angle)``, [..., 3, 3]: rotates camera-frame points about the optical axis, clockwise on screen (rad)."""
    angle = torch.as_tensor(angle)
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack((c, -s, zero, s, c, zero, zero, zero, one), dim=-1).unflatten(-1, (3, 3))


def crop_camera(
    intrinsics: Tensor | np.ndarray,
    box: Tensor | np.ndarray | tuple[float, float, float],
    size: int,
    angle: Tensor | np.ndarray | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The camera that sees a square crop, and the affine map that makes the crop out of the frame.

    The crop is what the same camera would see, rotated by ``angle`` about its optical axis, with a sensor of
    ``size`` x ``size`` px: ``warp = K' Rz(angle) K^-1`` is exactly affine, K' has no skew, and the centre of the box
    falls on the centre of the crop. Labels rotate with it: ``points @ camera_roll(angle).T``. At angle 0 and without
    skew, ``x' = (x - cx) size / side + size / 2 - 0.5`` for both axes.

    Args:
        intrinsics: [..., 3, 3], px: K of the frame.
        box: [..., 3], px of the frame: centre x, centre y, side.
        size: side of the crop, px.
        angle: [...], rad.

    Returns:
        K' [..., 3, 3] and the warp [..., 2, 3] from frame pixels to crop pixels (what ``cv2.warpAffine`` takes).

    Raises:
        ValueError: a focal length or the box's side that is not positive and finite, a size below 1 or not whole.
    """
    intrinsics = _tensors(intrinsics)[0]
    check_intrinsics(intrinsics)
    box = torch.as_tensor(box, dtype=intrinsics.dtype, device=intrinsics.device)
    angle = torch.as_tensor(angle, dtype=intrinsics.dtype, device=intrinsics.device)
    if size < 1 or size != int(size):
        raise ValueError(f"size: a crop needs a whole number of px, at least 1, got {size}")
    if not bool((torch.isfinite(box).all(-1) & (box[..., 2] > 0)).all()):
        raise ValueError(f"box: expected a finite centre and a side above 0 px, got {box.tolist()}")

    zoom = size / box[..., 2]
    focal = torch.stack((intrinsics[..., 0, 0] * zoom, intrinsics[..., 1, 1] * zoom), dim=-1)
    roll = camera_roll(angle)
    ray = unproject(box[..., None, :2], torch.ones_like(box[..., :1]), intrinsics)
    rotated = (ray @ roll.mT)[..., 0, :2]
    centre = (size - 1) / 2 - focal * rotated

    focal, centre = torch.broadcast_tensors(focal, centre)
    cropped = torch.zeros(*centre.shape[:-1], 3, 3, dtype=intrinsics.dtype, device=intrinsics.device)
    cropped[..., 0, 0], cropped[..., 1, 1] = focal[..., 0], focal[..., 1]
    cropped[..., :2, 2] = centre
    cropped[..., 2, 2] = 1
    # The product in float64: its terms of some 1e3 px cancel, and in float32 the warp would be off by 1e-3 px and more.
    warp = cropped.double() @ roll.double() @ torch.linalg.inv(intrinsics.double())
    return cropped, warp[..., :2, :].to(intrinsics.dtype)


def rotated_crop_camera(
    intrinsics: Tensor | np.ndarray, box: Tensor | np.ndarray, size: int, rotation: Tensor
) -> tuple[Tensor, Tensor]:
    """The camera of a square crop that is rotated about its centre in any direction, and the homography that makes the crop.

    A rotation about the camera's centre moves no ray, so ``warp = K' R K^-1`` is exact for every depth. The centre of the box
    falls on the centre of the crop. The focal lengths are chosen so that the box's area at its centre is the crop's: the area
    magnification of ``K R K^-1`` at a ray r = K^-1 (u, v, 1) is (R r)_z^-3. About the optical axis this is :func:`crop_camera`.

    Args:
        intrinsics: [B, 3, 3], px: K of the picture.
        box: [B, 3], px of the picture: centre x, centre y, side.
        size: side of the crop, px.
        rotation: [B, 3, 3]: from the picture's camera to the crop's; labels move as ``points @ rotation.mT``.

    Returns:
        K' [B, 3, 3] and the warp [B, 3, 3] from the picture's pixels to crop pixels.

    Raises:
        ValueError: as :func:`crop_camera`; a centre of the box that the rotated camera does not have before it.
    """
    upright, _ = crop_camera(intrinsics, box, size)
    intrinsics, rotation = _tensors(intrinsics, rotation)
    box = torch.as_tensor(box, dtype=intrinsics.dtype)
    ray = unproject(box[..., None, :2], torch.ones_like(box[..., :1]), intrinsics)
    rotated = (ray @ rotation.mT)[..., 0, :]
    if not bool((rotated[..., 2] > 0.1).all()):
        raise ValueError("rotation: the rotated camera does not see the box; take a smaller angle")
    focal = upright.diagonal(dim1=-2, dim2=-1)[..., :2] * rotated[..., 2:] ** 1.5
    cropped = torch.diag_embed(torch.cat((focal, torch.ones_like(focal[..., :1])), dim=-1))
    cropped[..., :2, 2] = (size - 1) / 2 - focal * rotated[..., :2] / rotated[..., 2:]
    return cropped, cropped @ rotation @ torch.linalg.inv(intrinsics)


def check_intrinsics(intrinsics: Tensor | np.ndarray, name: str = "intrinsics") -> None:
    """Raises ValueError unless every K [..., 3, 3] is finite, its focal lengths above 0, its last row (0, 0, 1)."""
    intrinsics = _tensors(intrinsics)[0]
    if intrinsics.shape[-2:] != (3, 3):
        raise ValueError(f"{name}: expected [..., 3, 3], got {list(intrinsics.shape)}")
    if not bool(torch.isfinite(intrinsics).all()):
        raise ValueError(f"{name}: expected finite numbers, got {intrinsics.tolist()}")
    focal = torch.stack((intrinsics[..., 0, 0], intrinsics[..., 1, 1]), dim=-1)
    if not bool((focal > 0).all()):
        raise ValueError(f"{name}: focal lengths must be above 0 px, got fx, fy = {focal.tolist()}")
    if not bool((intrinsics[..., 2, :] == intrinsics.new_tensor((0, 0, 1))).all()):
        raise ValueError(f"{name}: the last row must be (0, 0, 1), got {intrinsics[..., 2, :].tolist()}")


def _tensors(*arrays: Tensor | np.ndarray) -> list[Tensor]:
    """Floating-point tensors of one dtype: the widest that came, float32 where only integers did."""
    tensors = [torch.as_tensor(array) for array in arrays]
    dtype = torch.float32 if not any(t.is_floating_point() for t in tensors) else None
    for tensor in tensors:
        if tensor.is_floating_point():
            dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
