"""A hand of MANO's sizes for tests of MANO's files: 778 of the vertices of AMT's own hand, the fingertips where MANO has them."""

from functools import cache

import numpy as np

from amt.hand.mano import HandModel
from amt.hand.mano_file import BACKS, NUM_VERTICES, TIP_VERTICES
from amt.hand.shipped import shipped_hand


@cache
def mano_like_hand(side: str = "right") -> HandModel:
    whole = shipped_hand(side)
    order = np.random.default_rng(0).permutation(whole.num_vertices)
    order = np.concatenate((order[~np.isin(order, whole.tip_vertices)], whole.tip_vertices))[-NUM_VERTICES:]
    for tip, place in zip(whole.tip_vertices, TIP_VERTICES[side], strict=True):
        at = int(np.flatnonzero(order == tip)[0])
        order[[at, place]] = order[[place, at]]
    rank = np.full(whole.num_vertices, -1)
    rank[order] = np.arange(NUM_VERTICES)
    regressor = whole.J_regressor[:, order]
    distance = np.linalg.norm(whole.v_template[order] - (whole.J_regressor @ whole.v_template)[:, None], axis=-1)
    regressor = regressor + 1e-3 * np.exp(-((distance / 0.02) ** 2))
    faces = rank[whole.f]
    faces = faces[(faces >= 0).all(1)]
    arrays = whole.arrays() | {
        name: getattr(whole, name)[order] for name in ("v_template", "shapedirs", "posedirs", "weights")
    }
    arrays |= {
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "f": faces,
        "tip_vertices": np.array(TIP_VERTICES[side]),
        "backs": np.array(BACKS) * (1.0 if side == "right" else -1.0, 1.0, 1.0),
        "nails": np.zeros(len(faces), bool),
    }
    return HandModel(**arrays, side=side)
