"""AMT's own hand: in MANO's format, free to ship, so that everything runs without a licence.

``amt.hand.bake`` makes the asset out of MakeHuman's body (CC0); nothing of it comes from MANO. The rest pose is a flat right hand
with its fingers along -x, the palm down (-y) and the thumb toward +z. A forearm begins 18 mm behind the wrist. The left hand is
the exact mirror image in x: a vertex keeps its index on both sides.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from amt.hand.mano import SIDES, Forearm, HandModel
from amt.hand.skeleton import MANO_PARENTS

ASSET = Path(__file__).parent / "assets" / "hand.npz"


@cache
def shipped_hand(side: str = "right") -> HandModel:
    """The hand of one side, "right" or "left"; loaded once, its arrays are read-only.

    Raises:
        ValueError: another side.
    """
    if side not in SIDES:
        raise ValueError(f"side: expected 'right' or 'left', got {side!r}")
    with np.load(ASSET, allow_pickle=False) as asset:
        arrays = {name: asset[name] for name in asset.files if name not in ("license", "origin")}
    arrays["f"], arrays["forearm_f"] = arrays["f"].astype(np.int64), arrays["forearm_f"].astype(np.int64)
    arrays["posedirs"] = arrays["posedirs"].astype(np.float32)
    arrays["kintree_table"] = np.array((MANO_PARENTS, range(len(MANO_PARENTS))))
    # float32 rounding of the asset: the sums are exact again in float64
    arrays["weights"] = _rows_sum_to_one(arrays["weights"])
    arrays["J_regressor"] = _rows_sum_to_one(arrays["J_regressor"])
    if side == "left":
        arrays = _mirror(arrays)
    for array in arrays.values():
        array.setflags(write=False)
    forearm = Forearm(*(arrays.pop(f"forearm_{name}") for name in ("v_template", "shapedirs", "f", "ring")))
    return HandModel(**arrays, side=side, forearm=forearm)


def _rows_sum_to_one(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / rows.sum(1, keepdims=True)


def _mirror(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same hand seen in a mirror at x = 0."""
    point = np.array((-1.0, 1.0, 1.0), np.float32)
    signs = np.tile((1.0, -1.0, -1.0), 15).astype(np.float32)  # an axis-angle vector (a, b, c) becomes (a, -b, -c)
    matrix = np.tile(np.outer(point, point).reshape(9), 15)  # R becomes M R M, entry by entry
    return arrays | {
        "v_template": arrays["v_template"] * point,
        "shapedirs": arrays["shapedirs"] * point[:, None],
        "posedirs": arrays["posedirs"] * point[:, None] * matrix,
        "f": arrays["f"][:, ::-1].copy(),
        "hands_components": arrays["hands_components"] * signs,
        "hands_mean": arrays["hands_mean"] * signs,
        "backs": arrays["backs"] * point,
        "forearm_v_template": arrays["forearm_v_template"] * point,
        "forearm_shapedirs": arrays["forearm_shapedirs"] * point[:, None],
        "forearm_f": arrays["forearm_f"][:, ::-1].copy(),
    }
