"""One call of ``refine`` as its Triton launches see it: tiles from a table, the maps' geometry, packed weights.

Nothing is tuned at run time: the same shapes take the same tiles, and give the same bits, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from amt.kernels import _triton
from amt.kernels.refine.triton_kernels.forward import gather_kernel


@dataclass(frozen=True)
class Blocks:
    """The largest tile [rows, hidden, channels] of one kernel, its warps and pipeline stages; 0 for an axis that it lacks."""

    rows: int
    hidden: int
    channels: int
    warps: int
    stages: int = 1


# By the bytes of an operand of the products. Both run on tensor cores: float16 and bfloat16 (2), float32 as tf32x3 (4).
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

# Before Hopper operands of a product lie in registers, and a block has less shared memory: these tiles are smaller there.
BEFORE_HOPPER = {
    2: TABLE[2] | {"single": Blocks(16, 256, 128, warps=8, stages=2)},
    4: TABLE[4] | {"mlp": Blocks(64, 32, 32, warps=8, stages=2), "mlp_backward": Blocks(32, 64, 32, warps=8, stages=2)},
}


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def ceil_div(value: int, size: int) -> int:
    return -(-value // size)


def power_of_two(value: int) -> int:
    """The smallest power of two that is at least ``value`` and 16."""
    return max(16, 1 << (value - 1).bit_length())


def divisor(size: int, most: int) -> int:
    """The largest power of two that divides ``size`` and is at most ``most``."""
    return min(size & -size, most)


def at(tensor: Tensor, *index) -> Tensor:
    """``tensor[index]`` for a launch, which reads its address alone: the tensor itself at step 0, for a view costs host time."""
    return tensor[index] if index[-1] else tensor


class Layout:
    """The part of a problem that follows from shapes and strides alone: computed once for all calls that share them.

    Raises:
        ValueError: no channel, no hidden unit, or no cell: the kernels' grids would be empty and leave outputs unwritten.
    """

    def __init__(self, map_shapes, map_strides, w1_dtype, w1_shape, height, width):
        self.channels = tuple(shape[3] for shape in map_shapes)
        self.sizes = tuple((shape[1], shape[2]) for shape in map_shapes)
        self.scales = tuple((w / width, h / height) for h, w in self.sizes)
        self.strides = tuple(stride[:3] for stride in map_strides)
        self.channels_total = sum(self.channels)
        self.padded_channels = max(64, round_up(self.channels_total, 64))
        self.num_steps, self.hidden = w1_shape[:2]
        self.padded_hidden = power_of_two(self.hidden) if self.hidden <= 64 else round_up(self.hidden, 64)
        # of every kernel that works on the MLP; a kernel may leave some unread
        self.constants = {
            "CHANNELS_TOTAL": self.channels_total,
            "PADDED_CHANNELS": self.padded_channels,
            "HIDDEN": self.hidden,
            "PADDED_HIDDEN": self.padded_hidden,
            "UPCAST": _triton.INTERPRETED and w1_dtype == torch.bfloat16,
        }
        if min(self.hidden, *self.channels, *(n for size in self.sizes for n in size)) < 1:
            raise ValueError(
                f"refine: maps and hidden units must not be empty, got maps {[list(s) for s in map_shapes]}, "
                f"w1 {list(w1_shape)}"
            )


_layout = lru_cache(maxsize=256)(Layout)


class Problem:
    """What all launches of one call share. ``rows`` = B J: the projections of one step.

    ``dtype`` is that of the products: w1's. With float32 weights over bfloat16 or float16 maps, samples are not rounded and
    products are float32, as in the reference.
    """

    def __init__(self, joints, intrinsics, maps, w1, b1, w2, b2, height, width):
        self.layout = layout = _layout(
            tuple(m.shape for m in maps), tuple(m.stride() for m in maps), w1.dtype, w1.shape, height, width
        )
        self.dtype = w1.dtype
        tables = TABLE if _triton.card(joints.device).major >= 9 else BEFORE_HOPPER
        self.table = tables[self.dtype.itemsize]
        self.batch, self.num_joints = joints.shape[:2]
        self.rows = self.batch * self.num_joints
        self.joints, self.intrinsics = joints.contiguous(), intrinsics.contiguous()
        # the first arguments of each kernel that samples
        self.geometry = {
            "maps": tuple(maps),
            "sizes": layout.sizes,
            "scales": layout.scales,
            "strides": layout.strides,
        }
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
            packed = samples.contiguous()  # a copy: its rows are 3 columns longer
        else:
            packed = w1.new_zeros(w1.shape[0], layout.padded_hidden, layout.padded_channels)
            packed[:, : layout.hidden, : layout.channels_total] = samples
        return packed.expand(steps, -1, -1)

    def launch(self, kernel, grid: tuple[int, ...], /, *, blocks: Blocks, slot: tuple = (), **arguments) -> None:
        """``arguments``: all of the kernel's, in its order."""
        self.launcher(kernel, grid, warps=blocks.warps, stages=blocks.stages, slot=slot, **arguments)

    def weights(self, k: int) -> dict[str, Tensor]:
        """The weights of step ``k`` and the steps after it, as the kernels name them; b2 is left out."""
        tensors = {"packed": self.packed, "w1": self.w1, "b1": self.b1, "w2": self.w2}
        return {name: at(tensor, k) for name, tensor in tensors.items()}

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.joints.device)

    def hidden_block(self, blocks: Blocks) -> int:
        return divisor(self.layout.padded_hidden, blocks.hidden)

    def gather(self, entering: Tensor, *, image_stride: int, step_stride: int, features: Tensor, slot: tuple) -> None:
        """Writes the samples at the joints of ``entering`` into ``features`` [steps, rows, PADDED_CHANNELS].

        ``image_stride`` and ``step_stride`` of ``entering`` are in floats.
        """
        layout, blocks = self.layout, self.table["gather"]
        self.launch(
            gather_kernel,
            (ceil_div(self.rows, blocks.rows), features.shape[0]),
            blocks=blocks,
            slot=slot,
            **self.geometry,
            entering=entering,
            image_stride=image_stride,
            step_stride=step_stride,
            intrinsics=self.intrinsics,
            features=features,
            rows=self.rows,
            num_joints=self.num_joints,
            CHANNELS=layout.channels,
            PADDED_CHANNELS=layout.padded_channels,
            BLOCK_ROWS=blocks.rows,
            BLOCK_CHANNELS=min(blocks.channels, power_of_two(max(layout.channels))),
        )
