"""What determines a synthetic set. Imports neither PyTorch nor NumPy: a command line is checked before they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amt.data.layout import FULL_SEQUENCES, SERIALS, SUBJECTS

if TYPE_CHECKING:
    from amt.hand.mano import HandModel


@dataclass(frozen=True)
class SetConfig:
    """What determines a set. Two runs with equal values write equal files."""

    sequences: int = 12  # a subject; DexYCB has 100
    frames: int = 3  # a sequence and camera; DexYCB has about 72
    subjects: int = 10
    seed: int = 0
    objects: tuple[str, ...] = ()  # mesh files of the user's; () for the built-in shapes
    mano: str | None = None  # folder with MANO_RIGHT.pkl and MANO_LEFT.pkl; None for AMT's own hand

    def __post_init__(self):
        if not 1 <= self.subjects <= len(SUBJECTS):
            raise ValueError(f"subjects must be 1-{len(SUBJECTS)} (the layout's); got {self.subjects}")
        if not 1 <= self.sequences <= FULL_SEQUENCES:
            raise ValueError(f"sequences must be 1-{FULL_SEQUENCES} a subject; got {self.sequences}")
        if not 1 <= self.frames <= 100_000:
            raise ValueError(f"frames must be at least 1; got {self.frames}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative; got {self.seed}")

    @property
    def num_pictures(self) -> int:
        return self.subjects * self.sequences * self.frames * len(SERIALS)

    def hand(self, side: str) -> HandModel:
        if self.mano is None:
            from amt.hand.shipped import shipped_hand

            return shipped_hand(side)
        from amt.hand.mano_file import load_mano

        return load_mano(Path(self.mano) / f"MANO_{side.upper()}.pkl", side)
