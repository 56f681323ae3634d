"""Sizes of hands from anthropometry, and ten shape directions.

MakeHuman's adults have hands of plausible form but not of the population's sizes. Each drawn hand is scaled as a whole: the
longest drawn hand becomes the longest of as many hands drawn from the published distribution, and so on down to the shortest.
"""

from __future__ import annotations

import numpy as np

# Hand length, m, mean and deviation: British adults, Pheasant and Haslegrave, "Bodyspace" (3rd edition, 2005), table 2.5.
LENGTHS = {"men": (0.189, 0.010), "women": (0.174, 0.009)}
NUM_BETAS = 10


def size_factors(lengths: np.ndarray, seed: int = 1) -> np.ndarray:
    """The factor [N] of each hand of ``lengths`` [N] (m), the first of which becomes the population's mean."""
    generator = np.random.default_rng(seed)
    count = len(lengths)
    wanted = np.concatenate([generator.normal(*LENGTHS[who], size=(count + 1) // 2) for who in LENGTHS])[:count]
    factors = np.empty(count)
    factors[np.argsort(lengths)] = np.sort(wanted) / np.sort(lengths)
    factors[0] = np.mean([mean for mean, _ in LENGTHS.values()]) / lengths[0]
    return factors


def principal_directions(shapes: np.ndarray, count: int = NUM_BETAS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D], directions [count, D] of deviation 1 over the shapes [N, D], and each shape's coefficients [N, count]."""
    mean = shapes.mean(0)
    left, values, right = np.linalg.svd(shapes - mean, full_matrices=False)
    deviation = values[:count] / np.sqrt(len(shapes) - 1)
    sign = np.sign(right[:count].sum(1))  # the first direction's positive side is the larger hand
    return mean, right[:count] * (deviation * sign)[:, None], left[:, :count] * sign * np.sqrt(len(shapes) - 1)
