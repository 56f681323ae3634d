"""The lines of BOP's csv of object poses, which ``amt.evaluate`` reads and writes, and ``amt.infer`` writes."""

from __future__ import annotations

import numpy as np

HEADER = "scene_id,im_id,obj_id,score,R,t,time"


def line(
    scene_id: int, im_id: int, obj_id: int, rotation: np.ndarray, translation: np.ndarray, score: float = 1.0
) -> str:
    """A line of the file; translation in metres, which the file has in millimetres."""
    moved = 1000 * np.asarray(translation, np.float64)
    r, t = (" ".join(f"{x:.8g}" for x in np.asarray(v, np.float64).ravel()) for v in (rotation, moved))
    return f"{scene_id},{im_id},{obj_id},{score:.4f},{r},{t},-1\n"
