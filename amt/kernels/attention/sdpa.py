"""``attention`` through PyTorch's scaled_dot_product_attention, with the back end that was measured to be the fastest.

PyTorch takes the first of its back ends that can run. Where ``choices.json`` (written by ``python -m benchmarks.choices`` from
a card's results) knows the card, the winner at the nearest measured length comes first instead.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from amt.kernels.attention import reference

BACK_ENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
CHOICES = Path(__file__).parent / "choices.json"
# {card: [{"B", "H", "N", "D", "dtype", "pass": "forward" | "forward+backward", "back_end"}, ...]}
_choices: dict[str, list[dict]] = json.loads(CHOICES.read_text()) if CHOICES.exists() else {}


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:  # [B, H, N, D], [B, H, M, D] twice
    if k.shape[2] == 0:  # zeros, as the definition has it; not every back end takes it
        return (q @ k.transpose(2, 3)) @ v
    if (
        k.shape[2] == 1
    ):  # a softmax over one key is 1, so q and k have no gradient; fused back ends leave roundings there
        return reference.attention(q, k, v, scale)
    if not _choices:
        return scaled_dot_product_attention(q, k, v, scale=scale)
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    first = back_end(_machine(q.device.type), q.shape[0] * q.shape[1], q.shape[2], q.shape[3], q.dtype, training)
    if first is None:
        return scaled_dot_product_attention(q, k, v, scale=scale)
    others = [back_end for name, back_end in BACK_ENDS.items() if name != first]
    with sdpa_kernel([BACK_ENDS[first], *others], set_priority=True):
        return scaled_dot_product_attention(q, k, v, scale=scale)


def back_end(machine: str, heads: int, tokens: int, size: int, dtype: torch.dtype, training: bool) -> str | None:
    """The winner at the measured shape nearest to this one, or ``None`` where nothing of its kind was measured.

    Args:
        heads: batch times heads.
    """
    wanted = {
        "D": size,
        "dtype": str(dtype).removeprefix("torch."),
        "pass": "forward+backward" if training else "forward",
    }
    measured = [e for e in _choices.get(machine, ()) if all(e[key] == value for key, value in wanted.items())]
    if not measured or not tokens or not heads:
        return None

    def distance(entry: dict) -> float:
        return abs(math.log(entry["N"] / tokens)) + 0.25 * abs(math.log(entry["B"] * entry["H"] / heads))

    return min(measured, key=distance)["back_end"]


@torch.compiler.assume_constant_result
def _machine(device_type: str) -> str:
    return torch.cuda.get_device_name() if device_type == "cuda" else device_type
