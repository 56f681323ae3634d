"""What the loss remembers from step to step. All of it stays on the device, and a skipped step changes none of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.skeleton import NUM_JOINTS, TIPS
from amt.train.ranks import summed

MOMENTUM = 0.98  # the memory reaches back about 50 steps
TIP_WEIGHT = 1.5  # of a fingertip's error against another joint's, before the running error counts
LEAST_RATIO, GREATEST_RATIO = 0.5, 2.0  # how far the running error moves a joint's weight


class JointErrors(nn.Module):
    """Weights of the joints' errors: w_j ~ b_j clamp(e_j / mean(e), 0.5, 2) with a mean of 1 over the fingers' joints.

    e_j is the running mean of the joint's wrist-relative error, b_j is 1.5 for fingertips and 1 for the others.
    """

    def __init__(self):
        super().__init__()
        base = torch.ones(NUM_JOINTS)
        base[list(TIPS)] = TIP_WEIGHT
        self.register_buffer("base", base, persistent=False)
        self.register_buffer(
            "error", torch.zeros(NUM_JOINTS)
        )  # m; of the steps so far, so that early ones count in full
        self.register_buffer("seen", torch.zeros(()))  # sum of the weights of the mean

    @torch.no_grad()
    def update(self, joints: Tensor, true: Tensor, valid: Tensor) -> None:
        """Takes one batch of all ranks into account: predicted and true joints [B, 21, 3] (m), and who is labelled [B]."""
        distance = ((joints - joints[:, :1]) - (true - true[:, :1])).norm(dim=-1)
        total, count = summed(torch.where(valid[:, None], distance, 0.0).sum(dim=0), valid.sum())
        mean = total / count.clamp(min=1)
        share = (1 - MOMENTUM) * (count > 0)
        self.error.lerp_(mean, share.to(mean.dtype))
        self.seen.lerp_(torch.ones_like(self.seen), share.to(mean.dtype))

    @torch.no_grad()
    def weights(self) -> Tensor:
        """[21]; the wrist's, whose wrist-relative error is 0, is 1."""
        fingers = self.error[1:]
        ratio = (fingers / fingers.mean().clamp(min=1e-9)).clamp(LEAST_RATIO, GREATEST_RATIO)
        weights = self.base[1:] * torch.where(self.seen > 0, ratio, 1.0)
        return torch.cat((self.base[:1], weights / weights.mean()))


class ContactScores(nn.Module):
    """F1 of the predicted hand contact over the last batches, and that of the best mask which is the same for every image.

    The mask is chosen in hindsight on the same labels. A prediction that does not beat it has learned nothing from the image.
    """

    def __init__(self, num_vertices: int):
        super().__init__()
        self.register_buffer("touched", torch.zeros(num_vertices))  # running share of the samples that touch there
        self.register_buffer("hits", torch.zeros(()))  # rightly predicted vertices, running mean over the steps
        self.register_buffer("named", torch.zeros(()))  # predicted ones
        self.register_buffer("seen", torch.zeros(()))  # sum of the weights of these means

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Takes one batch of all ranks into account: logits and labels [B, V], and which samples are labelled [B]."""
        answers, labels = (logits > 0) & valid[:, None], labels & valid[:, None]
        hits, named = (answers & labels).sum().to(logits.dtype), answers.sum()
        hits, named, touched, count = summed(hits, named, labels.sum(dim=0), valid.sum())
        divisor = count.clamp(min=1)
        share = ((1 - MOMENTUM) * (count > 0)).to(logits.dtype)
        self.touched.lerp_(touched / divisor, share)
        self.hits.lerp_(hits / divisor, share)
        self.named.lerp_(named / divisor, share)
        self.seen.lerp_(torch.ones_like(self.seen), share)

    @torch.no_grad()
    def scores(self) -> dict[str, Tensor]:
        """``contact_f1`` and ``contact_f1_constant``; 0 before the first contact."""
        touched = self.touched / self.seen.clamp(min=1e-9)
        positives = self.touched.sum()
        gained = touched.sort(descending=True).values.cumsum(dim=0)
        sizes = torch.arange(1, len(gained) + 1, device=gained.device)
        # the k vertices touched most often have an F1 of 2 sum_k p / (k + sum p)
        constant = (2 * gained / (sizes + touched.sum())).amax()
        return {
            "contact_f1": 2 * self.hits / (self.named + positives).clamp(min=1e-9),
            "contact_f1_constant": constant,
        }
