"""The sigma reparameterisation: a latent with a mean and a variance, sampled in training, its mean in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.model.layers import small_output

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -8.0, 4.0
FIRST_LOG_VARIANCE = -4.0  # little noise at first: the decoder must learn to read the mean


class Latent(nn.Module):
    """Kingma and Welling, "Auto-Encoding Variational Bayes" (2014); with ``sample`` off it is a plain linear layer."""

    def __init__(self, dim: int, latent: int, sample: bool):
        super().__init__()
        self.sample = sample
        self.mean = nn.Linear(dim, latent)
        self.log_variance = small_output(nn.Linear(dim, latent))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A value, the mean and the log variance, each [B, latent], of features [B, dim]."""
        mean = self.mean(x).float()
        log_variance = (self.log_variance(x).float() + FIRST_LOG_VARIANCE).clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        if not (self.training and self.sample):
            return mean, mean, log_variance
        return mean + torch.randn_like(mean) * (log_variance / 2).exp(), mean, log_variance


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, averaged over the latent's dimensions: [B]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=-1)
