"""The training loss: one file for the terms of the hand, of the object and of contact; training.py adds them up.

Lengths are compared in float32 metres and divided by 0.1 m, angles by 3 rad: every term is about 1 at the start.
"""

from amt.train.config import LossConfig
from amt.train.losses.masks import mean_where
from amt.train.losses.training import Loss, TrainingLoss, compute_loss
from amt.train.losses.weights import wanted_terms

__all__ = ["Loss", "LossConfig", "TrainingLoss", "compute_loss", "mean_where", "wanted_terms"]
