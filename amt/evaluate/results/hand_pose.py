"""The hand-pose text file of DexYCB's toolkit: a line an image, ``index,x1,y1,z1,...,x21,y21,z21``.

The index is the frame's in its split; millimetres, absolute, camera frame, DexYCB's order of joints. Every frame with a labelled
hand must be there. Scored is protocol T: mean joint error (mm) and AUC from 0 to 50 mm, of joints as they are, with their
roots on each other, and after Procrustes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from amt import metrics
from amt.evaluate.results.checks import (
    ResultError,
    check_absolute,
    check_order,
    check_side,
    check_sides,
    check_unit,
    lines,
    numbers,
    whole,
)
from amt.evaluate.results.truth import HandTruth
from amt.hand.skeleton import NUM_JOINTS

NAME = "hand_pose.txt"
FIELDS = 1 + 3 * NUM_JOINTS


def line(index: int, joints: np.ndarray) -> str:
    """A line of the file of joints [21, 3] (m)."""
    return f"{index}," + ",".join(f"{1000 * x:.4f}" for x in np.asarray(joints, np.float64).ravel()) + "\n"


def read(path: Path, truth: HandTruth) -> np.ndarray:
    """float64 [N, 21, 3], mm: the file's joints of every labelled frame, in their order. Raises ResultError, OSError."""
    found: dict[int, list[float]] = {}
    for number, text in lines(path, truth.frames):
        where, fields = f"line {number}", text.split(",")
        if len(fields) != FIELDS:
            raise ResultError(
                f"{path}: {where} has {len(fields)} fields, expected {FIELDS}: the index, then 21 joints x, y, z"
            )
        index = whole(path, where, fields[0], "the index")
        if index in found:
            raise ResultError(f"{path}: {where} names image {index} again; leave one line an image")
        if index >= truth.frames:
            raise ResultError(
                f"{path}: {where} names image {index}, and {truth.name} has {truth.frames}: is it of another split?"
            )
        found[index] = numbers(path, where, fields[1:])
    missing = [index for index in truth.index.tolist() if index not in found]
    if missing:
        raise ResultError(
            f"{path}: lacks {len(missing)} of {len(truth.index)} labelled images of {truth.name}, the first is {missing[0]}; "
            "every one is scored"
        )
    joints = np.array([found[index] for index in truth.index.tolist()]).reshape(-1, NUM_JOINTS, 3)
    check_absolute(path, joints[:, 0])
    check_unit(path, joints, truth.joints, "millimetres")
    check_side(path, joints, truth.joints)
    check_order(path, joints, truth.joints)
    check_sides(path, joints, truth.joints, truth.left)
    return joints


def score(found: np.ndarray, truth: HandTruth) -> dict[str, float]:
    """The toolkit's six figures of joints [N, 21, 3] (mm)."""
    a, b = (torch.from_numpy(x / metrics.joints.MM_PER_M) for x in (found, truth.joints))
    errors = {
        "absolute": metrics.absolute_error_mm(a, b),
        "wrist_aligned": metrics.wrist_aligned_error_mm(a, b),
        "procrustes": metrics.procrustes_error_mm(a, b),
    }
    figures = {f"{name}_mpjpe_mm": float(error.mean()) for name, error in errors.items()}
    return figures | {f"{name}_auc": metrics.auc(error) for name, error in errors.items()}


def write(path: Path, rows: Iterable[tuple[int, np.ndarray]]) -> None:
    """Writes (index, joints [21, 3], m), in the order of the indices, whole or not at all."""
    from amt.files import write_text

    write_text(path, "".join(line(index, joints) for index, joints in sorted(rows, key=lambda row: row[0])))
