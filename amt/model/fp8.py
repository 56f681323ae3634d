"""Which of the model's layers get FP8 products: QKV and the MLPs of every transformer block.

Patch embedding, norms, the residual stream, the attentions' output layers, heads and keypoint maps stay as they are.
"""

from __future__ import annotations

import re

from torch import nn

from amt.kernels.fp8_linear import convert

# Names in this package's blocks, and in transformers' DINOv2 (q_proj)
_CHOSEN = re.compile(r"(^|\.)(blocks|layer)\.\d+\.(.+\.)?((attention|cross)\.(q|k|v|[qkv]_proj)|mlp\.(fc1|fc2))$")


def use_fp8(model: nn.Module) -> str:
    """Gives the blocks' QKV, fc1 and fc2 FP8 products, in place; parameters and state dicts do not change.

    Returns:
        A line that says which layers these are, with ``*`` for a block's number.
    """
    names = convert(model, lambda name, layer: _CHOSEN.search(name) is not None)
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
    return (
        f"FP8 products in {len(names)} linear layers: {', '.join(kinds) or 'none has sizes that are multiples of 16'}"
    )
