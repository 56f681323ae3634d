"""Which side a hand is, where a finder is in doubt: the model looks at it as a right hand and as a left one.

A left hand is predicted as a right one in a mirror. Maps of the wrong side's picture are more spread, so that their entropy is
a witness. Its weight was chosen on 499 hands of people who were not trained on, of which the finder takes 32 for the other
side: 20 with a weight of 3, 13 with 6, 11 with 8 and 10, 13 with 15, where each look's square fits its joints (docs/log.md, 29
November 2026).
"""

from __future__ import annotations

import math

DOUBT = 3.0  # nats: odds below which the model is asked; one hand in five
WEIGHT = 8.0  # of a difference of entropies


def log_odds(side: str, score: float) -> float:
    """Nats, above 0 for a right hand.

    Args:
        score: 0.5-1, how sure the side is.
    """
    p = min(max(score, 0.5), 1 - 1e-6)
    return math.log(p / (1 - p)) * (1 if side == "right" else -1)


def in_doubt(odds: float) -> bool:
    """Whether odds (nats) are so small that the model should be asked."""
    return abs(odds) < DOUBT


def word(as_right: float, as_left: float) -> float:
    """What two looks of the model add to the odds (nats); 0 where one of them says nothing.

    Args:
        as_right, as_left: mean entropy of the joints' maps (nats), :meth:`amt.model.keypoints.Keypoints.doubt`.
    """
    said = WEIGHT * (as_left - as_right)
    return said if math.isfinite(said) else 0.0
