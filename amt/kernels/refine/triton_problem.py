"""What the launches of one call of ``refine`` in Triton share: block sizes from a table, the maps' geometry, packed weights.

Nothing is tuned at run time: the same shapes take the same blocks, and give the same bits, on every machine. What follows from
shapes and strides alone is worked out once (:class:`Layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from amt.kernels import _triton
from amt.kernels.refine.triton_two_kernel import gather_kernel


@dataclass(frozen=True)
class Blocks:
    """One kernel's tile [rows, hidden, channels] at most, warps and pipeline stages; an axis that a kernel lacks is 0."""

    rows: int
    hidden: int
    channels: int
    warps: int
    stages: int = 1


# 2 bytes: float16 and bfloat16, on the tensor cores. 4 bytes: float32 in IEEE arithmetic, which has none.
TABLE = {
    2: {
        "gather": Blocks(8, 0, 256, warps=8),
        "mlp": Blocks(64, 256, 64, warps=8, stages=4),
        "single": Blocks(16, 256, 128, warps=8, stages=3),
        "mlp_backward": Blocks(64, 64, 64, warps=8, stages=3),
        "feature_gradient": Blocks(128, 64, 128, warps=8, stages=3),
        "weight_gradient": Blocks(64, 128, 128, warps=8, stages=3),
        "joint_gradient": Blocks(0, 0, 64, warps=4),
        "weights": Blocks(0, 16, 128, warps=4),
        "locate": Blocks(128, 0, 0, warps=4),
        "link": Blocks(64, 0, 0, warps=4),
        "map_gradient": Blocks(16, 0, 256, warps=4),
    },
    4: {
        "gather": Blocks(8, 0, 128, warps=4),
        "mlp": Blocks(64, 64, 32, warps=8, stages=2),
        "single": Blocks(32, 64, 32, warps=8, stages=2),
        "mlp_backward": Blocks(64, 64, 32, warps=8, stages=2),
        "feature_gradient": Blocks(64, 32, 128, warps=8, stages=2),
        "weight_gradient": Blocks(32, 64, 128, warps=8, stages=2),
        "joint_gradient": Blocks(0, 0, 64, warps=4),
        "weights": Blocks(0, 16, 128, warps=4),
        "locate": Blocks(128, 0, 0, warps=4),
        "link": Blocks(64, 0, 0, warps=4),
        "map_gradient": Blocks(16, 0, 128, warps=4),
    },
}


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def power_of_two(value: int) -> int:
    return max(16, 1 << (value - 1).bit_length())


def divisor(size: int, most: int) -> int:
    """The largest power of two that divides ``size`` and is at most ``most``."""
    return min(size & -size, most)


def ceil_div(value: int, size: int) -> int:
    return -(-value // size)


class Layout:
    """What follows from shapes and strides alone."""

    def __init__(self, map_shapes, map_strides, dtype, w1_shape, height, width):
        self.channels = tuple(shape[3] for shape in map_shapes)
        self.sizes = tuple((shape[1], shape[2]) for shape in map_shapes)
        self.scales = tuple((w / width, h / height) for h, w in self.sizes)
        self.strides = tuple(stride[:3] for stride in map_strides)
        self.channels_total = sum(self.channels)
        self.padded_channels = max(64, round_up(self.channels_total, 64))
        self.num_steps, self.hidden = w1_shape[:2]
        self.padded_hidden = power_of_two(self.hidden) if self.hidden <= 64 else round_up(self.hidden, 64)
        self.upcast = _triton.INTERPRETED and dtype == torch.bfloat16


_layout = lru_cache(maxsize=256)(Layout)


class Problem:
    """What every launch of one call shares. ``rows`` = B J: the projections of one step."""

    def __init__(self, joints, intrinsics, maps, w1, b1, w2, b2, height, width):
        self.layout = layout = _layout(
            tuple(m.shape for m in maps), tuple(m.stride() for m in maps), maps[0].dtype, w1.shape, height, width
        )
        self.dtype = maps[0].dtype
        self.table = TABLE[self.dtype.itemsize]
        self.batch, self.num_joints = joints.shape[:2]
        self.rows = self.batch * self.num_joints
        self.joints, self.intrinsics = joints.contiguous(), intrinsics.contiguous()
        self.geometry = (tuple(maps), layout.sizes, layout.scales, layout.strides)
        self.w1 = w1 if w1.stride()[1:] == (w1.shape[2], 1) else w1.contiguous()
        self.b1, self.w2, self.b2 = b1.contiguous(), w2.contiguous(), b2.contiguous()
        self.packed = self._pack(self.w1)
        inputs = (self.joints, self.intrinsics, *maps, self.w1, self.b1, self.w2, self.b2)
        self.launcher = _triton.launcher(("refine", height, width, *map(_triton.signature, inputs)))

    def _pack(self, w1: Tensor) -> Tensor:  # [S, PADDED_HIDDEN, PADDED_CHANNELS]
        """w1 without its relative columns: rows of aligned length, so that the GEMMs load 16 bytes at a time."""
        layout, steps = self.layout, w1.shape[0]
        if w1.stride(0) == 0:  # one MLP for all steps
            w1 = w1[:1]
        samples = w1[..., : layout.channels_total]
        if samples.shape[1:] == (layout.padded_hidden, layout.padded_channels):
            packed = samples.to(self.dtype, memory_format=torch.contiguous_format, copy=True)
        else:
            packed = torch.zeros(
                w1.shape[0], layout.padded_hidden, layout.padded_channels, dtype=self.dtype, device=w1.device
            )
            packed[:, : layout.hidden, : layout.channels_total] = samples
        return packed.expand(steps, -1, -1)

    def launch(self, kernel, grid: tuple[int, ...], *arguments, blocks: Blocks, slot: tuple = (), **constants) -> None:
        self.launcher(kernel, grid, *arguments, warps=blocks.warps, stages=blocks.stages, slot=slot, **constants)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.joints.device)

    def hidden_block(self, blocks: Blocks) -> int:
        return divisor(self.layout.padded_hidden, blocks.hidden)

    def gather(self, entering: Tensor, strides: tuple[int, int], features: Tensor, slot: tuple) -> None:
        """Samples at the joints of ``entering``, whose images and steps lie ``strides`` floats apart, into features [S', ...]."""
        blocks = self.table["gather"]
        self.launch(
            gather_kernel,
            (ceil_div(self.rows, blocks.rows), features.shape[0]),
            *self.geometry,
            entering,
            *strides,
            self.intrinsics,
            features,
            self.rows,
            self.num_joints,
            blocks=blocks,
            slot=slot,
            CHANNELS=self.layout.channels,
            PADDED_CHANNELS=self.layout.padded_channels,
            BLOCK_ROWS=blocks.rows,
            BLOCK_CHANNELS=min(blocks.channels, power_of_two(max(self.layout.channels))),
        )
