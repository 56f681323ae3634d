"""Where hand and object touch."""

from __future__ import annotations

import torch
from torch import Tensor

CONTACT_DISTANCE = 0.005  # m


def contact_labels(vertices: Tensor, points: Tensor, threshold: float = CONTACT_DISTANCE) -> tuple[Tensor, Tensor]:
    """Which hand vertices and which object points lie within ``threshold`` of each other.

    Distances are between points: sample the object at least as densely as the threshold, or contacts go unseen. A NaN
    touches nothing.

    Args:
        vertices: [..., V, 3], m: the hand's.
        points: [..., P, 3], m: on the object's surface, in the same frame.
        threshold: m.

    Returns:
        hand bool [..., V] and object bool [..., P].

    Raises:
        ValueError: a threshold that is not above 0, or that looks like millimetres (above 0.1 m).
    """
    if not 0 < threshold <= 0.1:
        raise ValueError(f"threshold: expected metres, above 0 and at most 0.1, got {threshold}")
    # Not the matrix-product form of cdist: half a metre from the camera it loses 0.1 mm and more to cancellation.
    distance = torch.cdist(vertices, points, compute_mode="donot_use_mm_for_euclid_dist")
    close = distance <= threshold
    return close.any(dim=-1), close.any(dim=-2)
