"""Pixels of crops, in PyTorch, on whatever device they lie: the definition of every change of the image.

``amt.data.pixels_cpu`` does the same with OpenCV, which is faster on a CPU. Nothing here waits for the device.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amt.data.draws import NOISE_POOL, Look

TAPS = 5  # of the Gaussian blur
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV has it
GRAIN, GRAIN_ZERO = (
    32,
    128,
)  # of the pool of noise: grey levels of a standard deviation, and the value that stands for none


def vary(cuts: Tensor, warp: Tensor, look: Look, size: int, alpha: Tensor | None, pictures: Tensor | None) -> Tensor:
    """Varied crops, uint8 [B, 3, S, S].

    Args:
        cuts: uint8 [B, C, C, 3].
        warp: float32 [B, 3, 3]: homography from crop pixels to pixels of the cut.
        alpha: uint8 [B, C, C]: 255 on hand and object, 0 on what may be replaced; None where no segmentation is known.
        pictures: uint8 [N, C, C, 3]: backgrounds.
    """
    image = cuts.permute(0, 3, 1, 2).float()
    if look.background is not None and alpha is not None:
        chosen = pictures[look.background.clamp(min=0)].permute(0, 3, 1, 2).float()
        weight = torch.where(look.background[:, None, None] < 0, 1.0, alpha.float() / 255)[:, None]
        image = _round(chosen + (image - chosen) * weight)
    image = _round(sample(image, warp, size))
    if look.occluder is not None:
        cover, colour = occluders(look.occluder, size)
        image = _round(image + (colour - image) * cover[:, None])
    if look.hue is not None:
        image = _round(torch.einsum("bij,bjyx->biyx", look.hue, image))
    image = _tone(image, look.curves)
    if look.sigma is not None:
        image = _round(_gaussian(image, look.sigma))
    if look.noise is not None:
        image = _round(image + _noise(look, size))
    if look.erased is not None:
        image = _erase(image, look.erased, look.erased_colour)
    if look.grey is not None:  # last: a grey camera's noise is grey, too
        grey = _round(torch.einsum("c,bcyx->byx", image.new_tensor(GREY), image))[:, None]
        image = torch.where(look.grey[:, None, None, None], grey, image)
    return image.to(torch.uint8)


def sample(image: Tensor, warp: Tensor, size: int) -> Tensor:
    """float32 [B, 3, S, S]: images [B, 3, C, C] seen through ``warp`` (crop pixels to image pixels), bilinear, 0 outside."""
    axis = torch.arange(size, device=image.device, dtype=torch.float32)
    ray = (
        warp[:, None, None, :, 0] * axis[:, None]
        + (warp[:, :, 1, None] * axis).mT[:, :, None]
        + warp[:, None, None, :, 2]
    )
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels
    grid = (2 * ray[..., :2] / ray[..., 2:] + 1) / image.shape[-1] - 1
    return F.grid_sample(image, grid, align_corners=False)


def occluders(numbers: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Striped superellipses: cover [B, S, S] in [0, 1] with a soft edge, and colour [B, 3, S, S].

    Args:
        numbers: float32 [B, 12]: centre x, y and half axes (px), angle (rad), exponent, red, green, blue, amplitude (grey
            levels), frequency (rad/px) and phase (rad) of the stripes.
    """
    axis = torch.arange(size, device=numbers.device, dtype=numbers.dtype)
    cover, along = occluder_cover(numbers, axis.repeat(size)[None], axis.repeat_interleave(size)[None])
    amplitude, frequency, phase = numbers[:, 9:, None].unbind(1)
    stripes = amplitude * torch.sin(along * frequency + phase)
    colour = (numbers[:, 6:9, None] + stripes[:, None]).clamp(0, 255)
    return cover.unflatten(1, (size, size)), colour.unflatten(2, (size, size))


def occluder_cover(numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The cover in [0, 1] at pixels x, y [B, N], and the coordinate along the first half axis, px."""
    centre_x, centre_y, a, b, angle, exponent = numbers[:, :6, None].unbind(1)
    dx, dy = x - centre_x, y - centre_y
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    wanted, a, b = a > 0, a.clamp(min=1), b.clamp(min=1)
    inside = 1 - ((u.abs() / a) ** exponent + (v.abs() / b) ** exponent) ** (1 / exponent)
    return (inside * torch.minimum(a, b) + 0.5).clamp(0, 1) * wanted, u  # the edge is about 1 px wide


@lru_cache(maxsize=4)
def noise_pool(device: torch.device) -> Tensor:
    """uint8 noise about GRAIN_ZERO with a standard deviation of GRAIN; what is above four of them is cut off."""
    pool = np.random.default_rng(3).standard_normal(NOISE_POOL, np.float32) * GRAIN + GRAIN_ZERO
    return torch.from_numpy(pool.round().clip(0, 255).astype(np.uint8)).to(device)


def _round(image: Tensor) -> Tensor:
    """Grey levels as a camera stores them, still float32."""
    return image.round().clamp(0, 255)


def _tone(image: Tensor, curves: Tensor) -> Tensor:
    return torch.gather(curves.float(), 2, image.flatten(2).long()).view_as(image)


def _gaussian(image: Tensor, sigma: Tensor) -> Tensor:
    """A blur by ``sigma`` [B] px; as it is where that is 0. Sums of shifted images: the same bits for any batch."""
    offset = torch.arange(TAPS, device=image.device) - TAPS // 2
    kernel = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]
    size = image.shape[-1]
    padded = F.pad(image, [TAPS // 2] * 4, mode="reflect")
    rows = sum(kernel[:, k] * padded[:, :, k : k + size] for k in range(TAPS))
    return sum(kernel[:, k] * rows[:, :, :, k : k + size] for k in range(TAPS))


def _noise(look: Look, size: int) -> Tensor:
    pool = noise_pool(look.grain.device)
    place = look.grain[:, None] + torch.arange(3 * size * size, device=pool.device)
    grain = pool[place].view(-1, 3, size, size).float() - GRAIN_ZERO
    return grain * (look.noise / GRAIN)[:, None, None, None]


def _erase(image: Tensor, box: Tensor, colour: Tensor) -> Tensor:
    axis = torch.arange(image.shape[-1], device=image.device)
    rows = (axis >= box[:, 0, None]) & (axis < box[:, 2, None])
    columns = (axis >= box[:, 1, None]) & (axis < box[:, 3, None])
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, colour[:, :, None, None].float(), image)
