"""Pixels of crops on a CPU, by OpenCV: what ``amt.data.pixels`` defines, to about one grey level."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from amt.data import pixels
from amt.data.draws import Look


def vary(cuts: Tensor, warp: Tensor, look: Look, size: int, alpha: Tensor | None, pictures: Tensor | None) -> Tensor:
    """Varied crops, uint8 [B, 3, S, S]; the arguments are those of :func:`amt.data.pixels.vary`."""
    out = np.empty((len(cuts), size, size, 3), np.uint8)
    look = look.map(Tensor.numpy)
    inverse = warp.double().numpy()
    for k, image in enumerate(cuts.numpy()):
        if alpha is not None and look.background is not None and look.background[k] >= 0:
            image = _blend(image, pictures[int(look.background[k])].numpy(), alpha[k].numpy())
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpPerspective(image, inverse[k], (size, size), flags=flags)
        out[k] = _vary_one(image, look, k)
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def _vary_one(image: np.ndarray, look: Look, k: int) -> np.ndarray:
    if look.occluder is not None and look.occluder[k, 2] > 0:
        cover, colour = pixels.occluders(torch.from_numpy(look.occluder[k : k + 1]), image.shape[0])
        cover, colour = cover[0, ..., None].numpy(), colour[0].permute(1, 2, 0).numpy()
        image = np.rint(image + (colour - image) * cover).astype(np.uint8)
    if look.hue is not None:
        image = cv2.transform(image, look.hue[k])
    image = cv2.LUT(image, np.ascontiguousarray(look.curves[k].T)[None])
    if look.sigma is not None and look.sigma[k] > 0:
        image = cv2.GaussianBlur(image, (pixels.TAPS, pixels.TAPS), float(look.sigma[k]))
    if look.noise is not None:
        pool, start = pixels.noise_pool(torch.device("cpu")).numpy(), look.grain[k]
        grain = pool[start : start + image.size].reshape(image.shape)
        image = cv2.addWeighted(image.astype(np.int16), 1.0, grain, float(look.noise[k]) / 32, 0, dtype=cv2.CV_8U)
    if look.erased is not None:
        top, left, bottom, right = look.erased[k]
        image[top:bottom, left:right] = look.erased_colour[k]
    if look.grey is not None and look.grey[k]:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def _blend(image: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[..., None].astype(np.float32) / 255
    return np.rint(background + (image - background.astype(np.float32)) * weight).astype(np.uint8)
