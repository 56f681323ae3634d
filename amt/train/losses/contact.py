"""The term of contact, on hand vertices and object points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.batch import Targets
from amt.model.outputs import Prediction
from amt.train.losses.masks import mean_where

HAND_BALANCE, OBJECT_BALANCE = 0.6, 0.9  # see _balanced_bce


def contact_term(p: Prediction, t: Targets) -> Tensor:
    """Cross-entropy and overlap of hand vertices and of object points, half their sum."""
    return (
        _balanced_bce(p.hand_contact, t.hand_contact, t.contact_valid, HAND_BALANCE)
        + _balanced_bce(p.object_contact, t.object_contact, t.contact_valid, OBJECT_BALANCE)
        + dice(p.hand_contact, t.hand_contact, t.contact_valid)
        + dice(p.object_contact, t.object_contact, t.contact_valid)
    ) / 2


def dice(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """1 - F1 with probabilities in place of answers, over the whole batch (Milletari et al., "V-Net", 2016)."""
    answers, labels = torch.sigmoid(logits) * valid[:, None], labels * valid[:, None]
    return 1 - (2 * (answers * labels).sum() + 1) / (answers.sum() + labels.sum() + 1)


def _balanced_bce(logits: Tensor, labels: Tensor, valid: Tensor, balance: float) -> Tensor:
    """Cross-entropy in which a positive weighs more, the rarer positives are: (negatives / positives) ** balance, at most 10.

    A threshold of 0.5 then gives the best F1. For a calibrated probability it would be half the best F1: about 0.25 on the
    hand, lower on the object.
    """
    labels = labels.to(logits.dtype)
    share = (labels.mean(dim=1) * valid).sum() / valid.sum().clamp(min=1)
    weight = ((1 - share) / share.clamp(min=1e-3)).pow(balance).clamp(max=10.0)
    losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
    return mean_where(losses, valid)
