"""Crops for the network: some that are made, which any machine has, and a set's, on which int8 is calibrated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from amt.data.config import DataConfig
from amt.data.loader import make_loader
from amt.export.formats import ExportError
from amt.export.signature import INPUTS, LOOK

Arrays = dict[str, np.ndarray]  # by the names of amt.export.signature


def made_crops(count: int, size: int, points: int, look: bool = False) -> Arrays:
    """``count`` crops that show noise, both sides in turn, each with a box of 6 x 8 x 12 cm half a metre away."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((count, 3, 8, 8), np.float32))
    image = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").mul(255).clamp(0, 255)
    focal = size * random.uniform(3, 5, count)  # a crop of 10 to 17 cm at half a metre
    intrinsics = np.zeros((count, 3, 3), np.float32)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = (size - 1) / 2 + random.uniform(-size, size, (count, 2))
    intrinsics[:, 2, 2] = 1
    surface = random.uniform(-1, 1, (count, points, 3))
    axis = random.integers(0, 3, (count, points, 1))
    surface = np.where(np.arange(3) == axis, np.sign(surface), surface) * (0.03, 0.04, 0.06)
    known = {LOOK: _box_look(surface, axis, random)} if look else {}
    return {
        "image": image.to(torch.uint8).numpy(),
        "intrinsics": intrinsics,
        "right": np.arange(count) % 2 == 0,
        "object_class": np.arange(count) % 22,
        "object_points": surface.astype(np.float32),
        **known,
    }


def _box_look(surface: np.ndarray, axis: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float32 [B, P, 7]: the box's normals, and colours that are noise."""
    normals = np.where(np.arange(3) == axis, np.sign(surface), 0)
    return np.concatenate((normals, random.random(surface.shape), np.ones_like(surface[..., :1])), -1).astype(
        np.float32
    )


def set_crops(data: DataConfig, subset: str, count: int, look: bool = False) -> Arrays:
    """At most ``count`` crops of a set's true boxes, spread evenly over one of its subsets.

    Raises:
        ExportError: there are fewer than two.
    """
    data = replace(data, limit=min(data.limit or count, count), window=1)
    batches = [b.inputs for b in make_loader(data, subset, min(count, 64), augment=False, shuffle=False)]
    wanted = [e for e in INPUTS if (look or e.name != LOOK) and batches]
    crops = {e.name: np.concatenate([getattr(b, e.path).numpy() for b in batches]) for e in wanted}
    if not batches or len(crops["right"]) < 2:
        raise ExportError(f"data.root={data.root}: the subset {subset} holds fewer than 2 crops; give a larger set")
    return crops


def rows(crops: Arrays, chosen) -> Arrays:
    """The crops that an index, slice or mask chooses."""
    return {name: array[chosen] for name, array in crops.items()}


def tensors(crops: Arrays, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """The arrays as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in crops.items()}
