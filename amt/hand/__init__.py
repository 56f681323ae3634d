"""Hands: the model that poses them, its files, cameras, rotations and the labels of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amt.hand.skeleton import SHIPPED_HAND

if TYPE_CHECKING:
    from amt.hand.mano import HandModel

__all__ = ["load"]


def load(name: str | Path = SHIPPED_HAND, side: str | None = None) -> HandModel:
    """A hand model: AMT's own, or a user's MANO file.

    Args:
        name: "amt", or the path of MANO_RIGHT.pkl, MANO_LEFT.pkl or an .npz with the same arrays.
        side: "right" or "left"; for a file it is read off the name where it is not given, else it is "right".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a MANO model; the message says what it holds or lacks.
    """
    if str(name) == SHIPPED_HAND:
        from amt.hand.shipped import shipped_hand

        return shipped_hand(side or "right")
    from amt.hand.mano_file import load_mano

    return load_mano(name, side)
