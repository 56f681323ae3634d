"""What a backbone and the neck return, whichever backbone ran."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from amt.model.draws import drawn_like


class Features(NamedTuple):
    """A backbone's maps from fine to deep, and the tokens of the whole image."""

    maps: tuple[Tensor, Tensor, Tensor]  # low, mid, high: [B, C_i, H_i, W_i]
    tokens: Tensor  # [B, N, hidden]


class Maps(NamedTuple):
    """The neck's channels-last maps, as ``amt.kernels.refine`` takes them."""

    fine: Tensor  # [B, H, H, C]
    coarse: Tensor  # [B, H / 2, H / 2, C]


class FeatureNoise(nn.Module):
    """Gaussian noise on a backbone's maps and tokens in training: what follows cannot rely on a feature's last digit.

    Args:
        deviation: of the noise, over the deviation of the features themselves; 0 changes nothing.
    """

    def __init__(self, deviation: float):
        super().__init__()
        self.deviation = deviation

    def forward(self, features: Features) -> Features:
        if not (self.training and self.deviation):
            return features
        return Features(tuple(self._noisy(x) for x in features.maps), self._noisy(features.tokens))

    def _noisy(self, x: Tensor) -> Tensor:
        return x + drawn_like(x) * (self.deviation * x.detach().std())
