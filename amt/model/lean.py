"""A convolutional network as it is run, not trained: batch norms folded into the convolutions, bfloat16 where a CPU has it.

The locator's two networks are run so in pictures and videos. Evaluation and calibration take them as they were trained.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_HAS_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")  # flags in /proc/cpuinfo of x86 and Arm

Network = TypeVar("Network", bound=nn.Module)


def lean(network: Network, bfloat16: bool = False) -> Network:
    """A copy of a network in evaluation mode, which gives the same answers but for rounding, in less time.

    Args:
        network: its convolutions with batch norm are those of :func:`amt.model.conv.convolution`. Its ``forward`` takes the
            convolutions' dtype.
        bfloat16: the convolutions compute in it; linear layers stay as they are.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if isinstance(module[i], nn.Conv2d) and isinstance(module[i + 1], nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(module[i], module[i + 1]), nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16 if bfloat16 else torch.float32, memory_format=torch.channels_last)
    return network


def bfloat16_is_slow(device: torch.device) -> bool:
    """Whether the CPU has no bfloat16 arithmetic, so that PyTorch computes in float32 and rounds."""
    if device.type != "cpu":
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return True
    return not words.intersection(_HAS_BFLOAT16)
