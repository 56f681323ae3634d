"""What every result file is asked: numbers, units, the order of joints, absolute coordinates, the side of left hands."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from amt.errors import UserError
from amt.hand.skeleton import MANO_TO_SKELETON, NUM_JOINTS
from amt.metrics import procrustes_error_mm

LONGEST_LINE = 4096  # characters; a hand-pose line has some 700
SHOWN = 40  # characters of a strange value in a message
UNITS = {"metres": 1.0, "centimetres": 100.0, "millimetres": 1000.0}  # of one metre
# Orders of the 21 joints that are in use: joint k of this project's order stands at order[k].
PLAIN = tuple(range(NUM_JOINTS))
ORDERS: dict[str, tuple[int, ...]] = {
    "DexYCB's (wrist, then thumb to little finger, base to tip)": PLAIN,
    "MANO's (16 joints, then five tips)": MANO_TO_SKELETON,
    "one that lists all bases, then the fingers (F-PHAB's)": tuple(
        [0, *(i for f in range(5) for i in (1 + f, 6 + 3 * f, 7 + 3 * f, 8 + 3 * f))]
    ),
    "one with each finger from its tip": tuple([0, *(4 * f + 4 - k for f in range(5) for k in range(4))]),
    "one with the little finger first": tuple([0, *(17 - 4 * f + k for f in range(5) for k in range(4))]),
}
UNLIKE = 15.0  # mm after Procrustes: joints that are farther off may be in another order
FAR = 10.0  # times as far as the labels: in no unit that is known
CAMERA_FRAME = "a camera frame that looks along z"
SAMPLED = 256  # hands that the order is judged by


class ResultError(UserError, ValueError):
    """A result file that is refused; the message is one line that names the file, the place in it and the remedy."""


def numbers(path: Path, where: str, fields: list[str]) -> list[float]:
    """Finite numbers. Raises ResultError for anything else."""
    found = []
    for text in fields:
        try:
            value = float(text if "_" not in text else "_")
        except ValueError:
            raise ResultError(f"{path}: {where}: {shown(text)} is not a number") from None
        if not math.isfinite(value):
            raise ResultError(f"{path}: {where}: {shown(text)} is not finite; leave no NaN in the file")
        found.append(value)
    return found


def whole(path: Path, where: str, text: str, name: str) -> int:
    """A whole number that is not negative. Raises ResultError."""
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isdigit() and len(stripped) < 19):
        raise ResultError(f"{path}: {where}: {name} must be a whole number, got {shown(text)}")
    return int(stripped)


def lines(path: Path, most: int):
    """(number, line) of a text file, one line at a time; no more than ``most`` lines. Raises ResultError."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) >= LONGEST_LINE:
                raise ResultError(f"{path}: line {number} is longer than {LONGEST_LINE} characters")
            if not line.strip():
                raise ResultError(f"{path}: line {number} is empty; leave it out")
            if number > most:
                raise ResultError(f"{path}: has more than {most} lines, which is all that this subset can fill")
            try:
                yield number, line.decode("ascii").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ResultError(f"{path}: line {number} is not plain text") from None


def shown(text: object) -> str:
    """A strange value, in quotes, cut short, on one line."""
    text = str(text)
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def check_unit(path: Path, found: np.ndarray, true: np.ndarray, unit: str, what: str = "") -> None:
    """Raises ResultError where points are a power of ten too large or small, as in another unit.

    Args:
        found, true: [..., 3], in ``unit`` (a key of :data:`UNITS`), absolute.
        what: of the file, in front of the message, such as "vertices: ".
    """
    sizes = [float(np.median(np.linalg.norm(x, axis=-1))) for x in (found, true)]
    if min(sizes) <= 0:
        return
    for other, per_metre in UNITS.items():
        expected = per_metre / UNITS[unit]
        if other != unit and 0.5 < sizes[0] / sizes[1] / expected < 2:
            raise ResultError(f"{path}: {what}looks like {other}; the form takes {unit}: multiply by {1 / expected:g}")
    if not 1 / FAR < sizes[0] / sizes[1] < FAR:
        raise ResultError(
            f"{path}: {what}lies {sizes[0] / sizes[1]:.3g} times as far from the camera as the labels; the form takes {unit} "
            "in the camera's frame"
        )


def check_side(path: Path, found: np.ndarray, true: np.ndarray, frame: str = CAMERA_FRAME) -> None:
    """Raises ResultError where points [..., 3] lie on the other side of the camera than the labels."""
    if np.sign(np.median(found[..., 2])) * np.sign(np.median(true[..., 2])) < 0:
        raise ResultError(f"{path}: lies behind the camera; the form takes {frame}: negate y and z")


def check_absolute(path: Path, wrists: np.ndarray) -> None:
    """Raises ResultError where wrists [N, 3] lie in the origin: joints are then relative to it."""
    at_origin = (np.abs(wrists) < 1e-9).all(-1)
    if at_origin.all():
        raise ResultError(
            f"{path}: every wrist is (0, 0, 0): the form takes absolute joints in the camera's frame, not root-relative"
        )
    if at_origin.any():
        first = int(at_origin.argmax())
        raise ResultError(
            f"{path}: mixes root-relative joints ({at_origin.sum()} of {len(wrists)}; the first is hand {first + 1}) with "
            "absolute ones: write all of them absolute, in the camera's frame"
        )


def check_order(path: Path, found: np.ndarray, true: np.ndarray, order: tuple[int, ...] = PLAIN) -> None:
    """Raises ResultError where joints fit the labels far better in another order than in the form's.

    Args:
        found: [N, 21, 3], mm, as they stand in the file; true: [N, 21, 3], mm, in this project's order.
        order: of the form: joint k of this project's order stands at order[k].
    """
    some = np.linspace(0, len(found) - 1, min(len(found), SAMPLED)).astype(int)
    found, true = (torch.from_numpy(x[some] / 1000) for x in (found, true))

    def error(places: tuple[int, ...]) -> float:
        return float(procrustes_error_mm(found[:, list(places)], true).mean())

    least = error(order)
    for name, other in ORDERS.items():
        if other != order and least > UNLIKE and error(other) < least / 2:
            raise ResultError(f"{path}: the joints are in another order: {name}; see docs/evaluation.md for the form's")


def check_sides(path: Path, found: np.ndarray, true: np.ndarray, left: np.ndarray) -> None:
    """Raises ResultError where the left hands fit far better after a mirror at x = 0, as protocol V leaves them.

    Args:
        found, true: [N, 21, 3], mm; left: bool [N].
    """
    if not left.any():
        return
    mirrored = found[left] * (-1, 1, 1)
    plain, better = (np.linalg.norm(x - true[left], axis=-1).mean() for x in (found[left], mirrored))
    if plain > 3 * better:
        raise ResultError(
            f"{path}: mixes protocols: its left hands are mirrored to right ones, as protocol V crops them; mirror them back"
        )
