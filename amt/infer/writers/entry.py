"""What every writer is given: a picture with all its hands, and once what holds for the whole run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from amt.hand.skeleton import JOINT_NAMES
from amt.infer.inputs import Picture
from amt.infer.output import OutputFolder
from amt.infer.result import Result

if TYPE_CHECKING:
    from amt.draw.hand_object import HandObject
    from amt.robot import HandMotion, RobotHand


@dataclass(frozen=True)
class Entry:
    """A picture and what was found in it."""

    index: int  # of the picture in its source
    picture: Picture
    results: tuple[Result, ...]  # one a hand; hand_found is False where there is none
    numbers: tuple[int | None, ...]  # of the hands in a video, which they keep
    records: tuple[dict, ...]  # the lines of predictions.jsonl
    truth: HandObject | None = None
    robots: tuple[HandMotion | None, ...] = ()  # with --retarget: one a hand, None where none was found


@dataclass(frozen=True)
class Setup:
    """A run's constants.

    ``about`` explains the numbers to whoever finds a file: units, frames, names, the hand's mesh by reference.
    """

    out: OutputFolder | None  # None: nothing is written but the recording that --rerun names
    rate: float | None  # frames/s of a video; None: single pictures
    num_vertices: int  # of a hand
    num_points: int  # of an object
    robot: RobotHand | None = None
    rerun: Path | None = None  # a place of its own for the recording
    say: Callable[[str], None] = print  # takes a line about what is lost
    about: dict[str, Any] = field(default_factory=dict)


class Writer(Protocol):
    """A file, or a folder of files, that grows picture by picture.

    Opened by ``with``. What was added stays whole and readable where the run ends early, also where it is killed.
    """

    def __enter__(self) -> Self: ...

    def add(self, entry: Entry) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def about(hand: str, num_vertices: int, faces: np.ndarray, robot: RobotHand | None = None) -> dict[str, Any]:
    """Units, frames and names, for the files' metadata.

    Args:
        hand: the name of the hand model: "amt", or MANO's file.
        faces: int [F, 3], its triangles.
    """
    described = {
        "program": "amt.infer",
        "units": {
            "_m": "metres",
            "_px": "pixels of the full picture",
            "_mm": "millimetres",
            "_rad": "radians",
            "_s": "seconds since the start of the video",
            "visibility, contact, spread": "0 to 1",
        },
        "camera_frame": "x right, y down, z forward; the origin is the camera's centre",
        "missing": "NaN, or -1 for integers",
        "joint_names": list(JOINT_NAMES),
        "mano": "mano_pose_rad (axis-angle: global, then 15 joints), mano_betas and mano_translation_m give mano_joints_m",
        "hand_mesh": {
            "model": hand,
            "vertices": num_vertices,
            "triangles": len(faces),
            "triangles_sha256": hashlib.sha256(np.ascontiguousarray(faces, np.int64).tobytes()).hexdigest(),
            "topology": "the triangles (int64, row by row) of the model; that of 'amt' is the array f of "
            "amt/hand/assets/hand.npz; a left hand has each triangle reversed",
        },
    }
    return described if robot is None else described | {"robot": robot.about}
