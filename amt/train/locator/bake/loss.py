"""How far a verifier's verdicts are from what crops show.

Joints and depths are learned from right hands alone. Who must name the joints of either side has to know the side first, and
learns neither: with joints of both sides the side stayed at chance for 90,000 crops.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from amt.model.verifier import Verdict
from amt.train.locator.bake.crops import CropTargets

BOX, JOINTS, SKIN_SEEN = 2.0, 5.0, 4.0  # weights: of the box's and the joints' term; of a cell that is all hand
WITHIN = 0.98  # joints beyond it lie outside the crop, where no map can point


def verifier_loss(verdict: Verdict, targets: CropTargets) -> dict[str, Tensor]:
    """The terms, "loss": their weighted sum, and "right": the share of hands whose side is told right."""

    def mean(values: Tensor, weights: Tensor) -> Tensor:
        return (values * weights).sum() / weights.sum().clamp(min=1)

    cross_entropy, known = F.binary_cross_entropy_with_logits, targets.known
    hand = cross_entropy(verdict.hand, targets.hand.clamp(min=0).float(), reduction="none")
    side = cross_entropy(verdict.right, targets.right, reduction="none")
    right_hands = known * targets.right
    within = (targets.joints.abs() < WITHIN).all(-1) * right_hands[:, None]
    weight = (targets.skin >= 0) * (1 + (SKIN_SEEN - 1) * targets.skin.clamp(min=0))
    skin = cross_entropy(verdict.skin, targets.skin.clamp(min=0), reduction="none")
    terms = {
        "hand": mean(hand, (targets.hand >= 0).float()),
        "side": mean(side, known),
        "box": mean((verdict.box - targets.box).abs().mean(1), known),
        "joints": mean((verdict.joints - targets.joints).abs().mean(-1), within),
        "depth": mean((verdict.depth - targets.depth).abs().mean(1), right_hands),
        "skin": mean(skin, weight),
    }
    loss = sum({"box": BOX, "joints": JOINTS}.get(name, 1.0) * term for name, term in terms.items())
    terms = {name: term.detach() for name, term in terms.items()}
    return {"loss": loss, **terms, "right": mean(((verdict.right > 0) == (targets.right > 0)).float(), known).detach()}
