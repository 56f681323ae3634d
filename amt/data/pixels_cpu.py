"""Pixels of crops on a CPU, by OpenCV: what ``amt.data.pixels`` defines, to about one grey level.

Each crop is made by one thread, from the cut where it lies (a memory-mapped file) straight into its place in the batch. Geometry
and hue work on interleaved pixels, all else on planes, which is how a batch holds them: OpenCV's table look-ups and sums are
fastest there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from amt.data import pixels
from amt.data.draws import Look
from amt.data.threads import in_threads

Pictures = Sequence[np.ndarray] | Tensor  # uint8 [C, C, ...] each


def middle(cuts: Pictures, size: int) -> Tensor:
    """The crops of the true boxes: the middle of each cut, uint8 [B, 3, S, S]."""
    cuts = _arrays(cuts)
    out = np.empty((len(cuts), 3, size, size), np.uint8)

    def one(k: int) -> None:
        rim = (cuts[k].shape[0] - size) // 2
        # A copy first: OpenCV splits a part of a picture row by row, ten times slower
        cv2.split(np.ascontiguousarray(cuts[k][rim : rim + size, rim : rim + size]), list(out[k]))

    in_threads(one, len(cuts))
    return torch.from_numpy(out)


def vary(
    cuts: Pictures, warp: Tensor, look: Look, size: int, alpha: Pictures | None, pictures: Tensor | None
) -> Tensor:
    """Varied crops, uint8 [B, 3, S, S]; the arguments are those of :func:`amt.data.pixels.vary`."""
    cuts, alpha = _arrays(cuts), None if alpha is None else _arrays(alpha)
    out = np.empty((len(cuts), 3, size, size), np.uint8)
    occluders = _occluders(look, size)
    look = look.map(Tensor.numpy)
    inverse = warp.double().numpy()

    def one(k: int) -> None:
        image = cuts[k]
        if alpha is not None and look.background is not None and look.background[k] >= 0:
            image = _blend(image, pictures[int(look.background[k])].numpy(), alpha[k])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpPerspective(image, inverse[k], (size, size), flags=flags)
        if k in occluders:
            cover, colour = occluders[k]
            image = np.rint(image + (colour - image) * cover).astype(np.uint8)
        if look.hue is not None:
            image = cv2.transform(image, look.hue[k])
        cv2.split(image, list(out[k]))
        _vary_planes(out[k], look, k)

    in_threads(one, len(cuts))
    return torch.from_numpy(out)


def _vary_planes(planes: np.ndarray, look: Look, k: int) -> None:
    """Changes a picture [3, S, S] in place."""
    blurred = look.sigma is not None and look.sigma[k] > 0
    for plane, curve in zip(planes, look.curves[k]):
        cv2.LUT(plane, curve, plane)
        if blurred:
            cv2.GaussianBlur(plane, (pixels.TAPS, pixels.TAPS), float(look.sigma[k]), plane)
    if look.noise is not None:
        pool, start = pixels.noise_pool(torch.device("cpu")).numpy(), look.grain[k]
        grain, weight = (
            pool[start : start + planes.size].reshape(-1, planes.shape[2]),
            float(look.noise[k]) / pixels.GRAIN,
        )
        flat = planes.reshape(grain.shape)  # one picture, three times as high
        cv2.addWeighted(flat, 1.0, grain, weight, -weight * pixels.GRAIN_ZERO, flat)
    if look.erased is not None:
        top, left, bottom, right = look.erased[k]
        planes[:, top:bottom, left:right] = look.erased_colour[k][:, None, None]
    if look.grey is not None and look.grey[k]:
        planes[:] = cv2.cvtColor(cv2.merge(list(planes)), cv2.COLOR_RGB2GRAY)


def _occluders(look: Look, size: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Cover [S, S, 1] and colour [S, S, 3] by sample, where there is an occluder. PyTorch's ops have threads of their own."""
    found = {}
    if look.occluder is not None:
        for k in (look.occluder[:, 2] > 0).nonzero()[:, 0].tolist():
            cover, colour = pixels.occluders(look.occluder[k : k + 1], size)
            found[k] = cover[0, ..., None].numpy(), colour[0].permute(1, 2, 0).numpy()
    return found


def _arrays(pictures: Pictures) -> Sequence[np.ndarray]:
    return pictures.numpy() if isinstance(pictures, Tensor) else pictures


def _blend(image: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[..., None].astype(np.float32) / 255
    return np.rint(background + (image - background.astype(np.float32)) * weight).astype(np.uint8)
