"""``normalize`` in C++: the function that the dispatch takes. The kernel stands in csrc/normalize."""

from __future__ import annotations

import torch
from torch import Tensor

_op = torch.ops.amt.normalize.default


@torch.library.register_fake("amt::normalize")
def _empty(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return mean.new_empty(image.shape)


def normalize(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """As ``amt.kernels.normalize``, on CPU tensors."""
    return _op(image, mean, scale)
