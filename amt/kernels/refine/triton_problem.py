"""What the launches of one call of ``refine`` in Triton share: block sizes from a table, the maps' geometry, packed weights.

Nothing is tuned at run time: the same shapes take the same blocks, and give the same bits, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from amt.kernels._triton import INTERPRETED
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
        "gather": Blocks(8, 0, 256, warps=4),
        "mlp": Blocks(64, 256, 64, warps=8, stages=3),
        "single": Blocks(64, 256, 32, warps=16, stages=2),
        "mlp_backward": Blocks(64, 64, 64, warps=8, stages=3),
        "feature_gradient": Blocks(128, 64, 128, warps=8, stages=3),
        "weight_gradient": Blocks(64, 128, 128, warps=8, stages=3),
        "joint_gradient": Blocks(0, 0, 64, warps=4),
        "locate": Blocks(128, 0, 0, warps=4),
        "map_gradient": Blocks(64, 0, 64, warps=8),
    },
    4: {
        "gather": Blocks(8, 0, 128, warps=4),
        "mlp": Blocks(64, 64, 32, warps=8, stages=2),
        "single": Blocks(32, 64, 32, warps=8, stages=2),
        "mlp_backward": Blocks(64, 64, 32, warps=8, stages=2),
        "feature_gradient": Blocks(64, 32, 128, warps=8, stages=2),
        "weight_gradient": Blocks(32, 64, 128, warps=8, stages=2),
        "joint_gradient": Blocks(0, 0, 64, warps=4),
        "locate": Blocks(128, 0, 0, warps=4),
        "map_gradient": Blocks(32, 0, 32, warps=8),
    },
}


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def power_of_two(value: int) -> int:
    return max(16, triton.next_power_of_2(value))


def divisor(size: int, most: int) -> int:
    """The largest power of two that divides ``size`` and is at most ``most``."""
    return min(size & -size, most)


def launch(kernel, grid: tuple[int, ...], *arguments, blocks: Blocks, **constants) -> None:
    kernel[grid](*arguments, **constants, num_warps=blocks.warps, num_stages=blocks.stages)


class Problem:
    """What every launch of one call shares: sizes, the maps' geometry, and w1 packed for the GEMMs."""

    def __init__(self, joints, intrinsics, maps, w1, b1, w2, b2, height, width):
        self.maps = tuple(maps)
        self.dtype = maps[0].dtype
        self.table = TABLE[self.dtype.itemsize]
        self.upcast = INTERPRETED and self.dtype == torch.bfloat16
        self.batch, self.num_joints = joints.shape[:2]
        self.num_steps, self.hidden = w1.shape[:2]
        self.rows = self.batch * self.num_joints
        self.joints, self.intrinsics = joints.contiguous(), intrinsics.contiguous()
        self.channels = tuple(m.shape[3] for m in maps)
        self.sizes = tuple((m.shape[1], m.shape[2]) for m in maps)
        self.scales = tuple((w / width, h / height) for h, w in self.sizes)
        self.strides = tuple((m.stride(0), m.stride(1), m.stride(2)) for m in maps)
        self.geometry = (self.maps, self.sizes, self.scales, self.strides)
        self.channels_total = sum(self.channels)
        self.padded_channels = max(64, round_up(self.channels_total, 64))
        self.padded_hidden = power_of_two(self.hidden) if self.hidden <= 64 else round_up(self.hidden, 64)
        self.w1 = w1 if w1[0].is_contiguous() else w1.contiguous()
        self.b1, self.w2, self.b2 = b1.contiguous(), w2.contiguous(), b2.contiguous()
        self.packed = self._pack(w1)

    def _pack(self, w1: Tensor) -> Tensor:  # [S, PADDED_HIDDEN, PADDED_CHANNELS]
        """w1 without its relative columns: rows of aligned length, so that the GEMMs load 16 bytes at a time."""
        steps = w1.shape[0]
        if w1.stride(0) == 0:  # one MLP for all steps
            w1 = w1[:1]
        samples = w1[..., : self.channels_total].to(self.dtype)
        if samples.shape[1:] == (self.padded_hidden, self.padded_channels):
            packed = samples.contiguous()
        else:
            packed = samples.new_zeros(w1.shape[0], self.padded_hidden, self.padded_channels)
            packed[:, : self.hidden, : self.channels_total] = samples
        return packed.expand(steps, -1, -1)

    def weights(self, k: int) -> tuple[Tensor, ...]:
        return self.packed[k], self.w1[k], self.b1[k], self.w2[k]

    def features(self) -> Tensor:
        return torch.empty(self.rows, self.padded_channels, dtype=self.dtype, device=self.joints.device)

    def hidden_block(self, blocks: Blocks) -> int:
        return divisor(self.padded_hidden, blocks.hidden)

    def gather(self, entering: Tensor, image_stride: int, features: Tensor) -> None:
        blocks = self.table["gather"]
        launch(
            gather_kernel,
            (triton.cdiv(self.rows, blocks.rows),),
            *self.geometry,
            entering,
            image_stride,
            self.intrinsics,
            features,
            self.rows,
            self.num_joints,
            blocks=blocks,
            CHANNELS=self.channels,
            PADDED_CHANNELS=self.padded_channels,
            BLOCK_ROWS=blocks.rows,
            BLOCK_CHANNELS=min(blocks.channels, power_of_two(max(self.channels))),
        )
