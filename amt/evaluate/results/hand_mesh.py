"""pred.json of FreiHAND and HO-3D: ``[joints [N][21][3], vertices [N][V][3]]``, metres, absolute, in the order of the set.

FreiHAND counts in its camera's frame and DexYCB's order of joints; HO-3D in OpenGL's frame (y up, z backward) and MANO's order.
Scored as both challenges do: joints and vertices as they are and after Procrustes (means in mm, AUC from 0 to 50 mm) and
F-scores at 5 and 15 mm. HO-3D also puts wrists on each other and scales by the bone from joint 0 to joint 4 of its order.

The labels are evaluation_xyz.json and evaluation_verts.json in the set's folder, where they are; else those of a set in DexYCB's
layout, of which the file holds every frame with a labelled hand, in order.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from amt import metrics
from amt.evaluate.results.checks import (
    CAMERA_FRAME,
    PLAIN,
    ResultError,
    check_absolute,
    check_order,
    check_side,
    check_unit,
    shown,
)
from amt.hand.skeleton import MANO_TO_SKELETON, NUM_JOINTS

NAME = "pred.json"
TRUTH = ("evaluation_xyz.json", "evaluation_verts.json")
SMALLEST = 1e-8  # m: what the evaluators add to a norm
BYTES_A_NUMBER, SLACK = 32, 1 << 20  # of JSON, at most
MOST_VERTICES = 2000  # a frame; MANO has 778
SCALE_BONE = 4  # HO-3D's: from joint 0 to this one of its order


def read(path: Path, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints [N, 21, 3] and vertices [N, V, 3] (m) of pred.json, or of a zip file that holds it. Raises ResultError, OSError.

    Args:
        frames: how many the set has; a file that cannot be that is not read into memory.
    """
    most = frames * (NUM_JOINTS + MOST_VERTICES) * 3 * BYTES_A_NUMBER + SLACK
    if path.suffix == ".zip":
        data = _unzipped(path, most)
    else:
        if path.stat().st_size > most:
            raise ResultError(f"{path}: is larger than {frames} frames can be")
        data = path.read_bytes()
    try:
        content = json.loads(data, parse_constant=lambda text: _refuse(path, f"holds {text}; leave no NaN in the file"))
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        if isinstance(error, ResultError):
            raise
        raise ResultError(f"{path}: is not JSON ({error}); is it whole?") from error
    if not isinstance(content, list) or len(content) != 2:
        raise ResultError(f"{path}: must be a list of two, joints and vertices; got {shown(type(content).__name__)}")
    return tuple(_points(path, name, part, frames, count) for (name, count), part in zip(_PARTS, content))


def score(
    joints: np.ndarray, vertices: np.ndarray, true_joints: np.ndarray, true_vertices: np.ndarray, ho3d: bool = False
) -> dict[str, float]:
    """The challenges' figures; all arrays in the file's own frame and order, m."""
    j, v, tj, tv = (torch.from_numpy(np.asarray(x, np.float64)) for x in (joints, vertices, true_joints, true_vertices))
    aligned = metrics.procrustes_aligned(j, tj, SMALLEST)
    same_mesh = v.shape == tv.shape
    mesh = metrics.procrustes_aligned(v, tv, SMALLEST) if same_mesh else _by_joints(v, j, tj)
    errors = {"absolute_mpjpe_mm": (j, tj), "procrustes_mpjpe_mm": (aligned, tj)}
    if ho3d:
        errors["scale_translation_mpjpe_mm"] = (_scaled(j, tj), tj)
    if same_mesh:
        errors |= {"absolute_mpvpe_mm": (v, tv), "procrustes_mpvpe_mm": (mesh, tv)}
    figures = {}
    for name, pair in errors.items():
        error = metrics.absolute_error_mm(*pair)
        figures[name], figures[name.replace("_mm", "_auc")] = float(error.mean()), metrics.auc(error)
    for name, points in (("", v), ("procrustes_", mesh)):
        at_5, at_15 = metrics.f_score(points, tv).mean(dim=0).tolist()
        figures |= {f"{name}f5": at_5, f"{name}f15": at_15}
    return figures


def check(path: Path, joints: np.ndarray, vertices: np.ndarray, true: np.ndarray, ho3d: bool = False) -> None:
    """Raises ResultError for another unit or order, for root-relative joints, and for vertices far from the hand.

    Args:
        true: [N, 21, 3], m, in the file's order. Vertices that are all zero are no mesh, and pass.
    """
    order = MANO_TO_SKELETON if ho3d else PLAIN
    check_absolute(path, joints[:, 0])
    check_unit(path, joints, true, "metres")
    check_unit(path, vertices.mean(1), true, "metres", "vertices: ")
    check_side(path, joints, true, "OpenGL's camera frame (y up, z backward)" if ho3d else CAMERA_FRAME)
    check_order(path, joints * 1000, true[:, list(order)] * 1000, order)


def text(points: np.ndarray) -> str:
    """Points as JSON, in micrometres' precision."""
    return json.dumps(np.round(np.asarray(points, np.float64), 6).tolist(), separators=(",", ":"))


_PARTS = (("joints", NUM_JOINTS), ("vertices", None))


def _points(path: Path, name: str, part: object, frames: int, count: int | None) -> np.ndarray:
    if not isinstance(part, list) or len(part) != frames:
        size = f"{len(part)} frames" if isinstance(part, list) else shown(part)
        raise ResultError(f"{path}: {name}: expected {frames} frames, got {size}; the file holds every frame, in order")
    try:
        points = np.array(part)
    except ValueError:
        raise ResultError(f"{path}: {name}: the frames are no equally long lists of [x, y, z]") from None
    if points.dtype.kind not in "if":
        raise ResultError(f"{path}: {name}: expected numbers, got {shown(points.flat[0] if points.size else part)}")
    points = points.astype(np.float64)
    if points.ndim != 3 or points.shape[2] != 3 or (count is not None and points.shape[1] != count):
        expected = f"[{frames}][{count or 'V'}][3]"
        raise ResultError(f"{path}: {name}: expected {expected}, got {list(points.shape)}")
    if not np.isfinite(points).all():
        frame = int((~np.isfinite(points)).any((1, 2)).argmax())
        raise ResultError(f"{path}: {name} of frame {frame} are not finite; leave no NaN in the file")
    return points


def _unzipped(path: Path, most: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != [NAME]:
                raise ResultError(f"{path}: must hold {NAME} and nothing else")
            with archive.open(NAME) as file:
                data = file.read(most + 1)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ResultError(f"{path}: is no whole zip file ({error})") from error
    if len(data) > most:
        raise ResultError(f"{path}: holds more than the set's frames can be")
    return data


def _by_joints(vertices: torch.Tensor, joints: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Vertices of another mesh, moved by the joints' alignment. Like the challenges, it does not divide by the predicted size."""
    a, b = joints - joints.mean(dim=1, keepdim=True), true - true.mean(dim=1, keepdim=True)
    size_a, size_b = (x.flatten(1).norm(dim=1)[:, None, None] + SMALLEST for x in (a, b))
    u, s, vh = torch.linalg.svd((a / size_a).mT @ (b / size_b))
    centre = vertices.mean(dim=1, keepdim=True)
    offset = true.mean(dim=1, keepdim=True) - joints.mean(dim=1, keepdim=True)
    return (vertices - centre) @ u @ vh * s.sum(dim=-1)[:, None, None] * size_b + offset + centre


def _scaled(joints: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Joints with the true wrist and the true length from joint 0 to joint 4."""
    length, wanted = ((x[:, SCALE_BONE] - x[:, 0]).norm(dim=-1)[:, None, None] for x in (joints, true))
    scaled = joints / torch.where(length > 0, length, 1.0) * wanted
    return scaled - scaled[:, :1] + true[:, :1]


def _refuse(path: Path, what: str):
    raise ResultError(f"{path}: {what}")
