"""The sigma reparameterisation: a latent with a mean and a variance, sampled in training, its mean in evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from amt.hand.tensors import TensorFields, exported
from amt.model.draws import drawn_like
from amt.model.layers import small_output

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -8.0, 4.0
FIRST_LOG_VARIANCE = -4.0  # little noise at first: the decoder must learn to read the mean


@exported
@dataclass(frozen=True)
class Gaussian(TensorFields):
    """A normal distribution with independent dimensions."""

    mean: Tensor  # [B, latent]
    log_variance: Tensor  # [B, latent]

    def kl(self) -> Tensor:
        """KL(N(mean, variance) || N(0, 1)) in nats, averaged over the dimensions: [B]."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean(dim=-1)


class Latent(nn.Module):
    """Kingma and Welling, "Auto-Encoding Variational Bayes" (2014); with ``sample`` off it is a plain linear layer."""

    def __init__(self, dim: int, latent: int, sample: bool):
        super().__init__()
        self.sample = sample
        self.mean = nn.Linear(dim, latent)
        self.log_variance = small_output(nn.Linear(dim, latent))

    def forward(self, x: Tensor) -> tuple[Tensor, Gaussian]:
        """A value [B, latent] and its distribution, from features [B, dim]."""
        mean = self.mean(x).float()
        log_variance = (self.log_variance(x).float() + FIRST_LOG_VARIANCE).clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        if not (self.training and self.sample):
            return mean, Gaussian(mean, log_variance)
        return mean + drawn_like(mean) * (log_variance / 2).exp(), Gaussian(mean, log_variance)
