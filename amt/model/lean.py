"""A convolutional network as it is run, not trained: batch norms folded into the convolutions, bfloat16 where a CPU has it.

The locator's two networks are run so in pictures and videos, and AMT's convolutions with ``infer.precision=auto``. Evaluation and
calibration take them as they were trained.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amt.model.conv import Residual

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


class Narrow(nn.Module):
    """Convolutions that compute in bfloat16 between float32 modules."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(torch.bfloat16)).to(x.dtype)


def with_narrow_convolutions(network: Network) -> Network:
    """A network in evaluation mode whose stacks of convolutions compute in bfloat16; all other modules keep their tensors' dtype.

    Parameters outside the stacks are those of ``network`` itself, not copies.
    """
    tensors = (*network.parameters(), *network.buffers())
    network = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
    for owner in list(network.modules()):
        for name, child in list(owner.named_children()):
            if _is_stack(child) and not _is_stack(owner):
                owner.add_module(name, Narrow(lean(child, bfloat16=True)))
    return network


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is made of :func:`amt.model.conv.convolution` and residuals of it alone."""
    leaves = [m for m in module.modules() if not len(list(m.children()))]
    return (
        isinstance(module, (nn.Sequential, Residual))
        and all(isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)) for m in leaves)
        and any(isinstance(m, nn.Conv2d) for m in leaves)
    )


def bfloat16_is_slow(device: torch.device) -> bool:
    """Whether the CPU has no bfloat16 arithmetic, so that PyTorch computes in float32 and rounds."""
    if device.type != "cpu":
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return True
    return not words.intersection(_HAS_BFLOAT16)
