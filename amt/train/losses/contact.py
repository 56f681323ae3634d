"""The term of contact, on hand vertices and object points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.batch import Targets
from amt.model.outputs import Prediction
from amt.train.losses.masks import mean_where
from amt.train.ranks import summed

HAND_BALANCE, OBJECT_BALANCE = 0.6, 0.9  # see _balanced_bce
FOCUS = 2.0  # see _focal_bce


def contact_term(p: Prediction, t: Targets, form: str) -> Tensor:
    """Cross-entropy ("balanced" or "focal") and overlap of hand vertices and of object points, half their sum."""
    surfaces = (
        (p.hand_contact, t.hand_contact, HAND_BALANCE),
        (p.object_contact, t.object_contact, OBJECT_BALANCE),
    )
    valid = t.contact_valid
    entropy = [
        _focal_bce(logits, labels, valid) if form == "focal" else _balanced_bce(logits, labels, valid, balance)
        for logits, labels, balance in surfaces
    ]
    return (sum(entropy) + sum(dice(logits, labels, valid) for logits, labels, _ in surfaces)) / 2


def dice(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """1 - F1 with probabilities in place of answers, over the whole batch (Milletari et al., "V-Net", 2016)."""
    answers, labels = torch.sigmoid(logits) * valid[:, None], labels * valid[:, None]
    hits, named, true = summed((answers * labels).sum(), answers.sum(), labels.sum())
    return 1 - (2 * hits + 1) / (named + true + 1)


def _balanced_bce(logits: Tensor, labels: Tensor, valid: Tensor, balance: float) -> Tensor:
    """Cross-entropy in which a positive weighs more, the rarer positives are: (negatives / positives) ** balance, at most 10.

    A threshold of 0.5 then gives the best F1. For a calibrated probability it would be half the best F1: about 0.25 on the
    hand, lower on the object.
    """
    labels = labels.to(logits.dtype)
    share = _share(labels, valid)
    weight = ((1 - share) / share.clamp(min=1e-3)).pow(balance).clamp(max=10.0)
    losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
    return mean_where(losses, valid)


def _focal_bce(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy times (1 - p)^2, p the probability of the true answer (Lin et al., "Focal loss", ICCV 2017).

    Positives together weigh as much as negatives together: that paper's alpha is 1 - share, scaled here to a mean of 1.
    """
    labels = labels.to(logits.dtype)
    share = _share(labels, valid).clamp(1e-3, 1 - 1e-3)
    alpha = torch.where(labels > 0, 0.5 / share, 0.5 / (1 - share))
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    wrong = torch.sigmoid(torch.where(labels > 0, -logits, logits))
    return mean_where(alpha * wrong.pow(FOCUS) * losses, valid)


def _share(labels: Tensor, valid: Tensor) -> Tensor:
    """The share of positives among the labelled samples."""
    total, count = summed((labels.mean(dim=1) * valid).sum(), valid.sum())
    return total / count.clamp(min=1)
