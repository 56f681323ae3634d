"""Which frames a published protocol scores, as named filters over an index, and how many frames the official splits have.

A figure belongs to one protocol, and figures of two protocols do not stand in one column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amt.data.errors import DataError

CONTACT_MM = (
    50.0  # protocol R: from the nearest joint to the nearest vertex of the object (ArtiBoost's public configuration)
)


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Attributes:
        name: its letter.
        split: the only split that it is defined on; None: any.
        scores: what it scores, in words.
        admits: bool [N] of an index's frames [N] (dtype :data:`amt.data.index.FRAME`).
    """

    name: str
    split: str | None
    scores: str
    admits: Callable[[np.ndarray], np.ndarray]


def _labelled(frames: np.ndarray) -> np.ndarray:
    return frames["hand"]


def _held_right(frames: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # nan: the distance is not known
        return frames["hand"] & frames["right"] & frames["object"] & (frames["distance"] <= CONTACT_MM)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("T", None, "all labelled hands, left and right; absolute, root-relative, Procrustes", _labelled),
        Protocol("V", "s0", "all labelled hands, left ones mirrored; wrist-aligned, true joint box x 1.5", _labelled),
        Protocol("R", "s0", f"right hands within {CONTACT_MM:g} mm of the object in the hand", _held_right),
        Protocol("F", "s0", "all labelled hands, left and right, with the object (dexycb_full)", _labelled),
    )
}

# (split, subset): frames, and frames with a labelled hand, of the whole recorded set. From the data set's paper and toolkit.
OFFICIAL = {
    ("s0", "train"): ("465,504", "406,888"),
    ("s0", "val"): ("23,200", ""),
    ("s0", "test"): ("over 90,000", "about 78,000"),
    ("s1", "train"): ("407,088", ""),
}


def find_protocol(name: str, split: str) -> Protocol:
    """The protocol of that name. Raises DataError where there is none, or where it is not defined on ``split``."""
    if name not in PROTOCOLS:
        raise DataError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {name!r}")
    protocol = PROTOCOLS[name]
    if protocol.split not in (None, split):
        raise DataError(f"protocol {name} is defined on split {protocol.split}; got {split}")
    return protocol
