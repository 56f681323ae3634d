"""Windows: T frames of one camera, ``stride`` apart, as rows of a crop cache."""

from __future__ import annotations

import numpy as np


def find_windows(run: np.ndarray, number: np.ndarray, length: int, stride: int) -> np.ndarray:
    """All windows without a gap, int64 [N, length]: rows in the order of time, windows by their first row.

    Args:
        run: int64 [R]: equal for frames of one sequence and camera.
        number: int64 [R]: the frame's place in its sequence.
    """
    if length == 1:
        return np.arange(len(run))[:, None]
    order = np.lexsort((number, run))
    place = (
        np.unique(run, return_inverse=True)[1][order] * (int(number.max(initial=0)) + length * stride + 1)
        + number[order]
    )
    wanted = place[:, None] + stride * np.arange(length)
    at = np.searchsorted(place, wanted)
    whole = (place[np.minimum(at, len(place) - 1)] == wanted).all(1)
    windows = order[np.minimum(at, len(place) - 1)][whole]
    return windows[np.argsort(windows[:, 0], kind="stable")]


def tile(windows: np.ndarray, rows: int) -> np.ndarray:
    """The windows, first ones first, that share no row with another."""
    taken, kept = np.zeros(rows, bool), []
    for window in windows:
        if not taken[window].any():
            taken[window] = True
            kept.append(window)
    return np.array(kept, np.int64).reshape(-1, windows.shape[1])
