"""Pictures as users have them: NumPy, PIL or PyTorch, 8 bits or floats, colour, alpha or grey, one or many."""

from __future__ import annotations

from typing import Any

import numpy as np

from amt.infer.checks import InputError

CHANNELS = (1, 3, 4)
_FORMS = "expected uint8 or floats in 0-1, [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA)"


def as_pictures(given: Any) -> tuple[list[np.ndarray], bool]:
    """Pictures as uint8 [H, W, 3], RGB, and whether ``given`` was a single one.

    Args:
        given: a picture, a list or tuple of pictures, or a batch [B, H, W, C] ([B, C, H, W] of a tensor). A picture is

            - an array [H, W, C] or [H, W], C 3 (RGB), 4 (RGBA; alpha is dropped) or 1 (grey), uint8 or floats in 0-1;
            - a tensor [C, H, W], [H, W, C] or [H, W], the same otherwise, on any device;
            - a PIL image of any mode of 8 bits, or of 16 bits a pixel; EXIF's orientation is applied.

    Raises:
        InputError: anything else; the line names what came.
    """
    if isinstance(given, (list, tuple)):
        return [as_picture(picture, f"image[{i}]") for i, picture in enumerate(given)], False
    if getattr(given, "ndim", 0) == 4:
        return [as_picture(picture, f"image[{i}]") for i, picture in enumerate(given)], False
    return [as_picture(given)], True


def as_picture(given: Any, name: str = "image") -> np.ndarray:
    """One picture as uint8 [H, W, 3], RGB; ``name`` stands in the InputError."""
    if hasattr(given, "detach"):
        return _from_tensor(given, name)
    if isinstance(given, np.ndarray):
        return _from_array(given, name)
    if type(given).__module__.startswith("PIL."):
        return _from_pil(given, name)
    raise InputError(f"{name}: {_FORMS}, or a PIL image; got {type(given).__name__}")


def _from_tensor(tensor: Any, name: str) -> np.ndarray:
    import torch

    if tensor.layout is not torch.strided:
        raise InputError(f"{name}: expected a dense tensor, got layout {tensor.layout}; call to_dense()")
    try:
        own = tensor.detach().cpu()
        array = (own.float() if own.dtype in (torch.bfloat16, torch.float16) else own).numpy()
    except (TypeError, NotImplementedError) as error:  # quantized; on the device "meta"
        raise InputError(f"{name}: {_FORMS}; got a tensor of {tensor.dtype} on {tensor.device}") from error
    if array.ndim == 3 and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    return _from_array(array, name)


def _from_pil(picture: Any, name: str) -> np.ndarray:
    from PIL import ImageOps

    if picture.mode in ("F", "I"):
        raise InputError(f"{name}: a PIL image of mode {picture.mode!r} has no range; convert it to 'RGB' or 'L' first")
    try:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):
            return _from_array((np.asarray(picture) >> 8).astype(np.uint8), name)
        return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # a file that is decoded only now
        raise InputError(f"{name}: the PIL image cannot be decoded ({error}); export the file again") from error


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)  # a np.matrix would keep two dimensions whatever is done to it
    got = f"got {array.dtype} {list(array.shape)}"
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        raise InputError(f"{name}: {_FORMS}; {got}")
    if array.dtype.kind == "f":
        array = _to_bytes(array, name, got)
    elif array.dtype != np.uint8:
        raise InputError(f"{name}: {_FORMS}; {got}")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[..., :3])


def _to_bytes(array: np.ndarray, name: str, got: str) -> np.ndarray:
    """uint8 of floats in 0-1, rounded."""
    if not array.size:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name}: {got} with values that are not finite; repair the picture")
    if low < 0 or high > 1:
        raise InputError(
            f"{name}: {got} with values from {low:.9g} to {high:.9g}; floats must lie in 0-1, divide by 255"
        )
    return (array.astype(np.float32) * 255 + 0.5).astype(np.uint8)
