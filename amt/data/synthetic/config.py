"""What determines a synthetic set. Imports neither PyTorch nor NumPy: a command line is checked before they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amt.data.layout import FULL_SEQUENCES, SERIALS, SUBJECTS
from amt.data.synthetic.cameras import DEFAULT, CameraConfig

MADE = "made"  # backgrounds of noise and shapes
MOST_SCENES = 13_000  # independent ones of a subject: folders are named by times of one day

if TYPE_CHECKING:
    from amt.hand.mano import HandModel


@dataclass(frozen=True)
class SequenceSpec:
    """All that determines a sequence."""

    seed: int
    subject: int  # index into SUBJECTS: the folder
    sequence: int
    sequences: int  # a subject
    frames: int
    scene: int | None = None  # the number of an independent scene, whose person, camera and calibration are its own

    @property
    def person(self) -> int:
        """Whom the streams of random numbers for person and cameras belong to."""
        return self.subject if self.scene is None else len(SUBJECTS) + self.scene


@dataclass(frozen=True)
class SetConfig:
    """What determines a set. Two runs with equal values write equal files."""

    sequences: int = 12  # a subject; DexYCB has 100
    frames: int = 3  # a sequence and camera; DexYCB has about 72
    subjects: int = 10
    seed: int = 0
    objects: tuple[str, ...] = ()  # mesh files of the user's; () for the built-in shapes
    independent: int = 0  # scenes that share nothing, one picture each, in place of the sequences; 0: sequences
    mano: str | None = None  # folder with MANO_RIGHT.pkl and MANO_LEFT.pkl; None for AMT's own hand
    backgrounds: str = "photographs"  # scikit-image's; or a folder of pictures; or "made"
    camera: CameraConfig = DEFAULT

    def __post_init__(self):
        if not 1 <= self.subjects <= len(SUBJECTS):
            raise ValueError(f"subjects must be 1-{len(SUBJECTS)} (the layout's); got {self.subjects}")
        if not 1 <= self.sequences <= FULL_SEQUENCES:
            raise ValueError(f"sequences must be 1-{FULL_SEQUENCES} a subject; got {self.sequences}")
        if not 1 <= self.frames <= 100_000:
            raise ValueError(f"frames must be at least 1; got {self.frames}")
        for name in ("seed", "independent"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")

        if self.independent > MOST_SCENES * self.subjects:
            raise ValueError(f"independent must be at most {MOST_SCENES} a subject; got {self.independent}")

    @property
    def num_pictures(self) -> int:
        return self.independent or self.num_grasps * self.frames * len(SERIALS)

    @property
    def num_grasps(self) -> int:
        return self.independent or self.subjects * self.sequences

    @property
    def num_people(self) -> int:
        return self.independent or self.subjects

    def specs(self) -> list[SequenceSpec]:
        """The set's sequences; an independent scene is one of a single picture. Subjects take scenes in turn."""
        if self.independent:
            return [
                SequenceSpec(self.seed, scene % self.subjects, scene // self.subjects, 0, 1, scene)
                for scene in range(self.independent)
            ]
        return [
            SequenceSpec(self.seed, subject, sequence, self.sequences, self.frames)
            for subject in range(self.subjects)
            for sequence in range(self.sequences)
        ]

    def pictures(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Files to stand behind the table and to lie upon it. Raises DataError."""
        if self.backgrounds == MADE:
            return (), ()
        from amt.data.backgrounds import SCENES, SURFACES, picture_files

        return tuple(tuple(picture_files(self.backgrounds, "--backgrounds", names)) for names in (SCENES, SURFACES))

    def hand(self, side: str) -> HandModel:
        if self.mano is None:
            from amt.hand.shipped import shipped_hand

            return shipped_hand(side)
        from amt.hand.mano_file import load_mano

        return load_mano(Path(self.mano) / f"MANO_{side.upper()}.pkl", side)
