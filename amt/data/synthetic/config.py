"""What determines a synthetic set. Imports neither PyTorch nor NumPy: a command line is checked before they load."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from amt.data.errors import DataError
from amt.data.layout import FULL_SEQUENCES, SERIALS, SUBJECTS, SYNTHETIC_RECORD, in_subset
from amt.data.synthetic.cameras import DEFAULT, CameraConfig
from amt.files import check_writable

LOCK = ".lock"  # in the set's folder: who holds it, renders
MADE = "made"  # backgrounds of noise and shapes
HELD_OUT = tuple(s for s in range(len(SUBJECTS)) if not in_subset("s1", "train", s, 0, 0, 0))
LIFT_FRAMES = 36  # fewest: with fewer the hand jumps by more than a few centimetres
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
    lift: bool = False  # the hand comes, grasps and lifts; else it holds, or lets go in the first of many frames

    @property
    def num_pictures(self) -> int:
        return self.frames * (1 if self.scene is not None else len(SERIALS))

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
    independent: int = 0  # scenes that share nothing, in place of the sequences; 0: sequences
    held_out: int = 0  # with independent: sequences of each person that split s1 keeps for validation and test
    lift: bool = (
        False  # sequences in which the hand comes, grasps and lifts; an independent scene is one by a single camera
    )
    mano: str | None = None  # folder with MANO_RIGHT.pkl and MANO_LEFT.pkl; None for AMT's own hand
    backgrounds: str = "photographs"  # scikit-image's; or a folder of pictures; or "made"
    camera: CameraConfig = DEFAULT

    def __post_init__(self):
        if not 1 <= self.subjects <= len(SUBJECTS):
            raise DataError(f"subjects must be 1-{len(SUBJECTS)} (the layout's); got {self.subjects}")
        if not 1 <= self.sequences <= FULL_SEQUENCES:
            raise DataError(f"sequences must be 1-{FULL_SEQUENCES} a subject; got {self.sequences}")
        if not 1 <= self.frames <= 100_000:
            raise DataError(f"frames must be at least 1; got {self.frames}")
        if self.lift and self.frames < LIFT_FRAMES:
            raise DataError(f"lift needs frames of at least {LIFT_FRAMES} a sequence; got {self.frames}")
        for name in ("seed", "independent", "held_out"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} must not be negative; got {getattr(self, name)}")

        if self.held_out and not self.independent:
            raise DataError("held_out goes with independent scenes; sequences have people of every subset")
        if self.held_out and self.subjects <= max(HELD_OUT):
            raise DataError(f"held_out needs the people of split s1: subjects at least {max(HELD_OUT) + 1}")
        if not 0 <= self.held_out <= FULL_SEQUENCES:
            raise DataError(f"held_out must be at most {FULL_SEQUENCES} a subject; got {self.held_out}")
        if self.independent > MOST_SCENES * len(self._scene_subjects):
            raise DataError(f"independent must be at most {MOST_SCENES} a subject; got {self.independent}")

    @property
    def num_pictures(self) -> int:
        return sum(spec.num_pictures for spec in self.specs())

    @property
    def num_grasps(self) -> int:
        return len(self.specs())

    @property
    def num_people(self) -> int:
        return len({spec.person for spec in self.specs()})

    @property
    def _scene_subjects(self) -> list[int]:
        """Those that take independent scenes."""
        return [s for s in range(self.subjects) if not (self.held_out and s in HELD_OUT)]

    def specs(self) -> list[SequenceSpec]:
        """The set's sequences; an independent scene is one of a single picture. Subjects take scenes in turn."""
        if not self.independent:
            return self._sequences(range(self.subjects), self.sequences)
        takers, frames = self._scene_subjects, self.frames if self.lift else 1
        held_out = self._sequences(HELD_OUT, self.held_out) if self.held_out else []
        return held_out + [
            SequenceSpec(self.seed, takers[scene % len(takers)], scene // len(takers), 0, frames, scene, self.lift)
            for scene in range(self.independent)
        ]

    def _sequences(self, subjects: Iterable[int], sequences: int) -> list[SequenceSpec]:
        return [
            SequenceSpec(self.seed, subject, sequence, sequences, self.frames, lift=self.lift)
            for subject in subjects
            for sequence in range(sequences)
        ]

    def words(self) -> list[str]:
        """The options of ``python -m amt.data.synthetic OUT`` that render this set; folders and files by their whole paths."""
        words = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == entry.default:
                continue
            if entry.name == "objects":
                words += ["--objects", *(str(Path(path).absolute()) for path in value)]
            elif entry.name == "camera":
                words += value.words()
            elif value is True:
                words.append(f"--{entry.name}")
            else:
                is_path = entry.name == "mano" or (entry.name == "backgrounds" and Path(value).is_dir())
                words += [f"--{entry.name.replace('_', '-')}", str(Path(value).absolute()) if is_path else str(value)]
        return words

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

        try:
            return load_mano(Path(self.mano) / f"MANO_{side.upper()}.pkl", side)
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error


def sequence_folder(out: Path, spec: SequenceSpec) -> Path:
    """Where a sequence lies: named by a date and time, so that names sort as sequences do."""
    day = SUBJECTS[spec.subject][:8]
    apart = 47 if spec.scene is None else 4  # s: 4 leave room for MOST_SCENES a subject before midnight
    time = datetime(2020, 1, 1, 9) + timedelta(seconds=apart * spec.sequence)
    return out / SUBJECTS[spec.subject] / f"{day}_{time:%H%M%S}"


def check_folder(out: Path, config: SetConfig) -> None:
    """Raises DataError or UsageError unless a set of ``config`` can be rendered, or continued, in the folder ``out``."""
    for path in config.objects:
        if not Path(path).exists():
            raise DataError(f"{path}: no such folder or file; --objects takes a folder of meshes, or mesh files")
    if config.mano is not None and not Path(config.mano, "MANO_RIGHT.pkl").is_file():
        raise DataError(f"{config.mano}: holds no MANO_RIGHT.pkl; --mano takes the folder of MANO's files")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder to render into")
    if (out / SYNTHETIC_RECORD).is_file():
        return  # a whole one may lie where nothing can be written
    check_writable(out)
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        raise DataError(
            f"{out}: is not empty and holds no {SYNTHETIC_RECORD}, so it was not made here; name an empty folder"
        )


def unfinished(root: Path) -> str:
    """One line on a synthetic set of which sequences are missing, with the command that renders them; "" for other sets."""
    record = _record(root)
    try:
        config = SetConfig(*(record[name] for name in ("sequences", "frames", "subjects", "seed")))
        later = {name: record[name] for name in ("independent", "held_out", "lift") if name in record}
        config = replace(config, **later)
    except (KeyError, TypeError, ValueError):
        return ""
    specs = config.specs()
    missing = sum(not sequence_folder(root, spec).is_dir() for spec in specs)
    if not missing:
        return ""
    what = f"{len(specs):,} {'scenes' if config.independent else 'sequences'}"
    return f"{root}: {missing:,} of the set's {what} are not rendered; finish it with {finish_command(root)}"


def finish_command(root: Path) -> str:
    """The command that renders what is missing of the synthetic set in a folder: the one that began it."""
    words = _record(root).get("command")
    known = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return shlex.join(["python", "-m", "amt.data.synthetic", str(root), *(words if known else ())])


def _record(root: Path) -> dict:
    """What a set's record says; empty where it is not readable, or none."""
    try:
        record = json.loads((root / SYNTHETIC_RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
