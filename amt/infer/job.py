"""The settings of a run, and what they mean for each picture: its camera, box, side, object and truth."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt.data.errors import DataError, FileError
from amt.data.lookup import Lookup, SetFrame
from amt.draw.hand_object import HandObject
from amt.hand.mano import ManoLayer
from amt.hand.mano_file import load_mano
from amt.hand.skeleton import SHIPPED_HAND
from amt.infer.cameras import ASSUMED_FOV, Camera, as_camera, diagonal_camera, exif_camera
from amt.infer.checks import InputError, fov_camera
from amt.infer.fit import fitted
from amt.infer.hands import LOCATED
from amt.infer.inputs import Picture
from amt.infer.known import held_object, true_box, truth
from amt.infer.lens import Lens, as_lens
from amt.infer.live import LiveView
from amt.infer.objects import HeldObject, resolve_object
from amt.infer.output import OutputFolder
from amt.infer.predictor import Predictor
from amt.infer.request import Request
from amt.infer.result import Result

if TYPE_CHECKING:
    from amt.robot import RobotHand

TOLD = 3  # lines about each reason for leaving out pictures


def above_progress():
    """A block whose lines on stderr stand above the progress bar, from any thread."""
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


@dataclass(frozen=True)
class Question:
    """A picture, what the predictor is asked about it, and what its data set knows."""

    picture: Picture
    request: Request
    truth: HandObject | None
    sources: dict[str, str]  # where K and the box come from
    taken_s: float | None = None  # time.monotonic() when a live camera gave the picture


@dataclass
class Job:
    """The settings of a run. ``None`` leaves a setting to the data set that an image lies in, or to the default."""

    predictor: Predictor
    out: OutputFolder | None  # None where nothing is written
    live: LiveView | None = None  # shows what is drawn; a picture that comes too soon is then left out
    camera: Camera | None = None
    lens: Lens | None = None  # the distortion, where it was given beside the camera
    fov: float | None = None  # degrees, horizontal
    box: np.ndarray | None = None  # cx, cy, side in px
    search: bool = False  # look for the box even where the data set knows it
    side: str | None = None
    object: str | None = None
    mano: str | Path | None = None  # folder of MANO's files, for the true hands of recorded sets
    draw: bool = True
    exports: tuple[str, ...] = ()  # formats of amt.infer.writers, beside predictions.jsonl
    rerun: Path | None = None  # where the recording goes; None: into the folder of the results
    robot: RobotHand | None = None  # follows every hand
    world: np.ndarray | None = None  # [4, 4]: from the camera's frame to the one that the robot's palm is told in
    smooth: bool = True  # hands that a finder follows through a video
    fit: bool = False  # fit the MANO parameters to the refined joints
    threads: int = 0  # of PyTorch, as somebody chose; 0: a video that is drawn leaves a core to drawing
    tell: Callable[[object], None] = print  # takes each line about what could not be used
    quiet: bool = False  # tell nothing about guesses; the page of --serve shows them
    told: set = field(default_factory=set)
    failed: Counter = field(default_factory=Counter)  # pictures left out, by reason
    empty: int = 0  # pictures without a hand
    notes: Counter = field(default_factory=Counter)  # pictures that the reader had to choose something about, by note

    def __post_init__(self):
        self.lookup = Lookup(self.mano)
        self.held: HeldObject | None = None
        if self.camera is not None:
            self.camera = as_camera(self.camera, self.lens)
        if self.object is not None:
            self.held = resolve_object(self.object, self.predictor.num_points, self.predictor.models)

    def say(self, line: str, about: object = None) -> None:
        """Prints a line, once a run, or once a run ``about`` this."""
        about = line if about is None else about
        if about not in self.told and not self.quiet:
            self.told.add(about)
            with above_progress():
                print(line, file=sys.stderr)

    def leave_out(self, path: Path, error: ValueError) -> None:
        """Counts a picture that cannot be used; the first few with the same fault are told."""
        reason = error.reason if isinstance(error, FileError) else str(error)
        self.failed[reason] += 1
        if self.failed[reason] <= TOLD:
            self.tell(error if isinstance(error, FileError) else f"{path}: {error}")

    def finished(self, picture: Picture, result: Result) -> Result:
        """The result as it is exported; a picture without a hand is counted."""
        self._note_empty(picture, result)
        return fitted(result, self.predictor.model.mano, self._left) if self.fit else result

    @cached_property
    def _left(self) -> ManoLayer | None:
        """MANO's own left hand, for a model that was trained with MANO."""
        path = None if self.mano is None else Path(self.mano, "MANO_LEFT.pkl")
        if self.predictor.model.config.hand == SHIPPED_HAND or path is None or not path.is_file():
            return None
        try:
            return ManoLayer(load_mano(path, "left")).to(self.predictor.device)
        except ValueError as error:
            raise InputError(str(error)) from error

    def _note_empty(self, picture: Picture, result: Result) -> None:
        """Counts a picture without a hand; the first is told."""
        if result.hand_found:
            return
        self.empty += 1
        if result.box_source == LOCATED:
            where = f"{picture.path}{'' if picture.frame is None else f', frame {picture.frame}'}"
            self.say(f"{where}: no hand found; --box cx,cy,side says where one is", "no hand")
            return
        self.say(
            f"{picture.path}{'' if picture.frame is None else f', frame {picture.frame}'}: no hand found (joints spread over "
            f"{100 * result.spread:.0f} % of the crop, limit {100 * self.predictor.spread_limit(result.box_source):.0f} %); "
            "this test is provisional, a larger infer.max_spread accepts more",
            "no hand",
        )

    def close(self) -> None:
        """Tells how many more pictures each fault and each note concerned."""
        if self.empty > 1:
            self.say(f"no hand found in {self.empty} pictures")
        for reason, count in self.failed.items():
            if count > TOLD:
                self.tell(f"{count - TOLD} more: {reason}")
        for note, count in self.notes.items():
            if count > 1:
                self.say(f"{count} pictures in all: {note}")

    def question(self, picture: Picture, near: np.ndarray | None = None) -> Question:
        """What to ask the predictor about a picture.

        What was given comes first, then the data set that the picture lies in; a part of the set that cannot be read matters
        only where it is needed.

        Raises:
            InputError, DataError: what is needed cannot be had, or the picture's camera or box is impossible.
        """
        size = picture.image.shape[:2]
        frame = self.lookup.frame_of(picture.path)
        intrinsics, lens, camera = self._camera(picture, frame)
        if frame is not None:
            self.say(
                f"{frame.root}: a data set; what is not given (K, hand side, object, true box) is taken from it, and the "
                "truth is drawn beside"
            )
        box, found = self._box(size, intrinsics, frame)
        side = self.side or ("right" if frame is None else self._needed(lambda: frame.side, "--side"))
        held = self.held
        if held is None and frame is not None:
            held = self._needed(lambda: held_object(frame, self.predictor.num_points), "--object")
        assumed = ASSUMED_FOV if camera == "assumed" else None
        request = Request(picture.image, intrinsics, box, side, held, near, lens, assumed)
        request.check()
        self._say_guess(picture, camera)
        self._say_object(request.object)
        for note in picture.notes:
            self.say(f"{picture.path}: {note}", note)
            self.notes[note] += 1
        known = None if frame is None else self._truth(frame, intrinsics, lens)
        return Question(picture, request, known, {"intrinsics_source": camera, **found})

    def _say_object(self, held: HeldObject | None) -> None:
        if held is None:
            self.say("no object is named: hands alone are answered; --object says what is held", "no object")
        elif held.known and held.look is None and self.predictor.model.pose_search is not None:
            self.say(
                f"{held.name}: nothing is known of its colours, so that its rotation is a guess; --models FOLDER holds coloured "
                "meshes, or --object is the file of one",
                "no look",
            )

    def _camera(self, picture: Picture, frame: SetFrame | None) -> tuple[np.ndarray, Lens | None, str]:
        """K, the lens, and where they come from."""
        size = picture.image.shape[:2]
        if self.camera is not None:
            return self.camera.of_picture(*size), self.camera.lens, "given"
        if self.fov is not None:
            return fov_camera(self.fov, *size), self.lens, "fov"
        if frame is not None:
            lens = self.lens or as_lens(self._needed(lambda: frame.distortion, "--intrinsics"))
            return self._needed(lambda: frame.intrinsics(size), "--intrinsics"), lens, "data set"
        known = None if picture.frame is not None else exif_camera(picture.path, *size)
        if known is not None:
            return known, self.lens, "exif"
        return diagonal_camera(*size), self.lens, "assumed"

    def _say_guess(self, picture: Picture, camera: str) -> None:
        """Tells once where K is no measurement."""
        remedy = "distances are only as good as that guess; --intrinsics takes a calibration"
        if camera == "fov":
            self.say(
                f"K is guessed from a field of view of {self.fov:g} degrees; distances are only as good as that guess"
            )
        elif camera == "exif":
            self.say(f"{picture.path}: K is guessed from the focal length in EXIF; {remedy}", "exif")
        elif camera == "assumed":
            self.say(
                f"{picture.path}: its camera is not known: {ASSUMED_FOV:g} degrees over the diagonal are assumed; {remedy}, "
                "--fov another field of view",
                "assumed",
            )

    def _box(self, size, intrinsics: np.ndarray, frame: SetFrame | None) -> tuple[np.ndarray | None, dict[str, str]]:
        if self.box is not None:
            return self.box, {"box_source": "given"}
        if frame is not None and not self.search:
            try:
                box = true_box(frame, size, intrinsics)
            except DataError as error:
                self._say_once(error, "the hand is looked for")
                return None, {}
            if box is not None:
                return box, {"box_source": "data set"}
        return None, {}

    def _truth(self, frame: SetFrame, intrinsics: np.ndarray, lens: Lens | None) -> HandObject | None:
        try:
            known = truth(frame, intrinsics, self.predictor.num_points, self._say_once)
            return None if known is None else replace(known, lens=lens)
        except DataError as error:
            self._say_once(error, "nothing is known of this picture's truth")
            return None

    def _needed(self, read: Callable, option: str):
        """A part of the set that nothing else stands in for, but an option of the command line would."""
        try:
            return read()
        except FileError as error:
            raise FileError(error.path, error.reason, f"{error.remedy}, or give {option}") from error
        except DataError as error:
            raise InputError(f"{error}, or give {option}") from error

    def _say_once(self, error: DataError, without: str) -> None:
        """Tells of a fault of a set, once for each kind of fault."""
        reason = error.reason if isinstance(error, FileError) else str(error)
        self.say(f"{error} (without it, {without})", (reason, without))
