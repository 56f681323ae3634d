"""``--retarget``: the robot's hands that follow the hands of a run, and the file of ``--world``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amt.draw.robot import Mesh
from amt.infer.checks import InputError
from amt.infer.result import Result
from amt.robot import HandMotion, Retargeter, RobotHand
from amt.robot.figures import Tally
from amt.robot.mesh import RobotMesh


class Robots:
    """One robot's hand for each hand of a video, by its number; of single pictures a new one for each.

    Args:
        world: [4, 4]: from the camera's frame to the fixed one; None: the camera is fixed.
        rate: frames/s; None: single pictures.
    """

    def __init__(self, hand: RobotHand, world: np.ndarray | None, rate: float | None):
        self.hand, self.world, self.rate = hand, world, rate
        self.mesh = RobotMesh(hand)
        self.tallies: dict[int, Tally] = {}
        self._followers: dict[tuple[int, str], Retargeter] = {}
        self._last: dict[int, int] = {}

    def follow(
        self, index: int, results: Sequence[Result], numbers: Sequence[int | None]
    ) -> tuple[HandMotion | None, ...]:
        """The robot's hand for each hand of a picture; None where no hand was found."""
        return tuple(
            self._one(index, result, 0 if number is None else number)
            if result.hand_found and np.isfinite(result.joints).all()
            else None
            for result, number in zip(results, numbers)
        )

    def _one(self, index: int, result: Result, number: int) -> HandMotion:
        if self.rate is None:
            follower = Retargeter(self.hand, self.world)
        else:
            key = number, result.side
            follower = self._followers.get(key) or self._followers.setdefault(key, Retargeter(self.hand, self.world))
        motion = follower.next(result.joints, result.side)
        tally = self.tallies.setdefault(number, Tally(self.hand, self.rate))
        tally.add(motion, follows=self._last.get(number) == index - 1)
        self._last[number] = index
        return motion

    def meshes(self, motions: Sequence[HandMotion | None]) -> list[Mesh | None]:
        """What to draw of each."""
        return [None if motion is None else self.mesh.posed(motion) for motion in motions]

    def lines(self) -> list[str]:
        """The figures of each hand, for people."""
        return [
            f"{self.hand.name} {number}: {tally.figures().line()}" for number, tally in sorted(self.tallies.items())
        ]


def read_world(path: str) -> np.ndarray:
    """A rigid transform [4, 4], m, of a text file, a .npy or a .json file. Raises InputError."""
    file = Path(path)
    try:
        if file.suffix == ".npy":
            given = np.load(file, allow_pickle=False)
        elif file.suffix == ".json":
            given = np.array(json.loads(file.read_text(encoding="utf-8")), np.float64)
        else:
            given = np.loadtxt(file, delimiter="," if "," in file.read_text(encoding="utf-8") else None)
    except OSError as error:
        raise InputError(f"--world {path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"--world {path}: expected 4 x 4 numbers ({' '.join(str(error).split())})") from None
    if given.shape != (4, 4) or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise InputError(f"--world {path}: expected 4 x 4 finite numbers, got {given.dtype} {list(given.shape)}")
    given = given.astype(np.float64)
    rotation = given[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not rigid or np.abs(given[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise InputError(
            f"--world {path}: expected a rigid transform, row by row: a rotation, a translation in metres, and 0 0 0 1"
        )
    return given
