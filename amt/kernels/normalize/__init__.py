"""``normalize``: a batch of pictures as a network takes them, from the bytes that a camera or a file gives.

One pass over memory: the bytes are read once, as planes or interleaved pixels, and the floats are written once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _backend, _checks, _native
from amt.kernels.normalize import reference
from amt.kernels.normalize.reference import NUM_CHANNELS

__all__ = ["NUM_CHANNELS", "normalize"]


def normalize(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """``(image - mean) * scale``; both operations are rounded to the dtype of ``mean``.

    Every implementation gives the same bits. The reference runs, whatever ``amt.kernels.use`` says, on other devices than the
    CPU, in dtypes of two bytes, and under torch.compile, which fuses it with what follows.

    Args:
        image: uint8 [B, 3, H, W], grey levels; any strides, also those of pixels [B, H, W, 3] seen through ``permute``. Grey
            levels in floating point, which somebody changed, take the reference.
        mean: [3], grey levels; float16, bfloat16, float32 or float64. One that requires a gradient takes the reference.
        scale: [3], of the same dtype: one over the standard deviation, per grey level.

    Returns:
        [B, 3, H, W] in the dtype of ``mean``, contiguous.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device; the message names it.
    """
    _checks.tensor("normalize", "image", image, ("B", NUM_CHANNELS, "H", "W"), (torch.uint8, *_checks.FLOATS))
    _checks.tensor("normalize", "mean", mean, (NUM_CHANNELS,), _checks.FLOATS, like=image)
    _checks.tensor("normalize", "scale", scale, (NUM_CHANNELS,), (mean.dtype,), like=image)
    bytes_on_cpu = image.dtype == torch.uint8 and image.device.type == "cpu"
    constant = not (mean.requires_grad or scale.requires_grad)
    if not (bytes_on_cpu and constant) or mean.dtype.itemsize == 2 or torch.compiler.is_compiling():
        return reference.normalize(image, mean, scale)
    return _backend.choose("normalize", image.device, mean.dtype)(image, mean, scale)


def _load_native():
    from amt.kernels.normalize.native import normalize

    return normalize


_backend.register(
    "normalize",
    [
        _backend.Implementation("native", _load_native, _native.reason_on("normalize", "cpu")),
        _backend.Implementation("reference", lambda: reference.normalize, _backend.runs_everywhere, transforms=True),
    ],
)
