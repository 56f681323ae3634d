"""The stand-in hand: procedural, in MANO's format, free to ship, so that everything runs without a licence.

Made by ``make_stand_in.py``; nothing of it comes from MANO's data. The rest pose is a flat right hand with its
fingers along -x, the palm down (-y) and the thumb toward +z; from wrist to middle fingertip it measures about 18.5
cm. The left hand is its exact mirror image in x. A vertex keeps its index on both sides but for 444 and 445, which
change places: DexYCB takes the middle fingertip there, so all joints mirror exactly.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from amt.hand.mano import HandModel
from amt.hand.skeleton import MANO_PARENTS, NUM_VERTICES, TIP_VERTICES

_ASSET = Path(__file__).parent / "assets" / "stand_in.npz"


@cache
def stand_in_hand(side: str = "right") -> HandModel:
    """The stand-in for one side, "right" or "left"; loaded once, its arrays are read-only.

    Raises:
        ValueError: another side.
    """
    if side not in TIP_VERTICES:
        raise ValueError(f"side: expected 'right' or 'left', got {side!r}")
    with np.load(_ASSET, allow_pickle=False) as asset:
        arrays = {name: asset[name] for name in asset.files}
    arrays["f"] = arrays["f"].astype(np.int64)
    arrays["kintree_table"] = np.array((MANO_PARENTS, range(len(MANO_PARENTS))))
    # float32 rounding of the asset: the sums are exact again in float64
    arrays["weights"] = _rows_sum_to_one(arrays["weights"])
    arrays["J_regressor"] = _rows_sum_to_one(arrays["J_regressor"])
    if side == "left":
        arrays = _mirror(arrays)
    for array in arrays.values():
        array.setflags(write=False)
    return HandModel(**arrays, side=side)


def _rows_sum_to_one(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / rows.sum(1, keepdims=True)


def _mirror(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same hand seen in a mirror at x = 0."""
    point = np.array((-1.0, 1.0, 1.0))
    signs = np.tile((1.0, -1.0, -1.0), 15)  # an axis-angle vector (a, b, c) becomes (a, -b, -c)
    matrix = np.tile(np.outer(point, point).reshape(9), 15)  # R becomes M R M, entry by entry
    order = np.arange(NUM_VERTICES)
    right, left = TIP_VERTICES["right"][2], TIP_VERTICES["left"][2]
    order[[right, left]] = left, right
    return {
        "v_template": arrays["v_template"][order] * point,
        "shapedirs": arrays["shapedirs"][order] * point[:, None],
        "posedirs": arrays["posedirs"][order] * point[:, None] * matrix,
        "J_regressor": arrays["J_regressor"][:, order],
        "weights": arrays["weights"][order],
        "kintree_table": arrays["kintree_table"].copy(),
        "f": order[arrays["f"][:, ::-1]],
        "hands_components": arrays["hands_components"] * signs,
        "hands_mean": arrays["hands_mean"] * signs,
    }
