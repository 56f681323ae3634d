"""What a backbone and the neck return, whichever backbone ran."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """A backbone's maps from fine to deep, and the tokens of the whole image."""

    maps: tuple[Tensor, Tensor, Tensor]  # low, mid, high: [B, C_i, H_i, W_i]
    tokens: Tensor  # [B, N, hidden]


class Maps(NamedTuple):
    """The neck's channels-last maps, as ``amt.kernels.refine`` takes them."""

    fine: Tensor  # [B, H, H, C]
    coarse: Tensor  # [B, H / 2, H / 2, C]
