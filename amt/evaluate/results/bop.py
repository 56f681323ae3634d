"""BOP's csv of object poses: ``scene_id,im_id,obj_id,score,R,t,time``, as DexYCB's toolkit takes it.

R is nine numbers, row by row; t three, mm: from the model of DexYCB to the camera. The scene is the sequence's place in the split
times the number of cameras, plus the camera's place; the image is the frame in its sequence. Every fourth frame counts.

Scored is BOP 2019's average recall. VSD: delta 15 mm, tau and threshold 0.05 to 0.5 of the diameter; MSSD: 0.05 to 0.5 of the
diameter; MSPD: 5 to 50 px; of every object in a scene, and of the grasped ones alone. Of several estimates of an object the one
with the highest score counts. bop_models.py says where symmetries come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amt import metrics
from amt.data.bop_csv import HEADER
from amt.data.parts import is_rigid
from amt.data.reader import Reader
from amt.data.set_folder import Frame
from amt.evaluate.results.checks import ResultError, check_side, check_unit, lines, numbers, shown, whole
from amt.files import write_text

NAME = "bop.csv"
EVERY = 4  # frames: the toolkit's subset of frames
MOST_A_FRAME = 100  # estimates
DELTA = 0.015  # m
SHARES = np.arange(1, 11) * 0.05
PIXELS = np.arange(1, 11) * 5.0
WIDTH = 640.0  # px, of the pictures that MSPD's thresholds are for


@dataclass(frozen=True)
class Estimate:
    """A line of the file."""

    score: float
    rotation: np.ndarray  # float64 [3, 3]
    translation: np.ndarray  # float64 [3], m


@dataclass(frozen=True)
class Target:
    """An object that counts."""

    frame: Frame
    obj_id: int
    rotation: np.ndarray  # float64 [3, 3]
    translation: np.ndarray  # float64 [3], m
    grasped: bool


class SceneIds:
    """The scene numbers of a split's frames, as the toolkit counts them."""

    def __init__(self, reader: Reader):
        runs = list(dict.fromkeys((info.subject, info.number, camera) for info, camera in _runs(reader)))
        self._sequences = {key: place for place, key in enumerate(dict.fromkeys(run[:2] for run in runs))}
        self._cameras = {camera: place for place, camera in enumerate(sorted({run[2] for run in runs}))}

    def __getitem__(self, frame: Frame) -> tuple[int, int]:
        """scene_id and im_id."""
        sequence = self._sequences[frame.sequence.subject, frame.sequence.number]
        return sequence * len(self._cameras) + self._cameras[frame.camera], frame.number

    def __len__(self) -> int:
        return len(self._sequences) * len(self._cameras)


def read(path: Path, scenes: int, frames: int) -> dict[tuple[int, int, int], list[Estimate]]:
    """Estimates by (scene_id, im_id, obj_id). Raises ResultError, OSError.

    Args:
        scenes, frames: how many the subset has.
    """
    found: dict[tuple[int, int, int], list[Estimate]] = {}
    seen: set[str] = set()
    for number, text in lines(path, 1 + frames * MOST_A_FRAME):
        if number == 1:
            if text != HEADER:
                raise ResultError(f"{path}: line 1 must be {HEADER}; got {shown(text)}")
            continue
        where, fields = f"line {number}", text.split(",")
        if len(fields) != 7:
            raise ResultError(f"{path}: {where} has {len(fields)} fields, expected 7: {HEADER}")
        key = tuple(whole(path, where, value, name) for value, name in zip(fields, ("scene_id", "im_id", "obj_id")))
        if key[0] >= scenes:
            raise ResultError(
                f"{path}: {where} names scene {key[0]}, and the subset has {scenes}: is it of another split?"
            )
        if text in seen:
            raise ResultError(f"{path}: {where} repeats an earlier line; leave one of them")
        seen.add(text)
        score, _ = numbers(path, where, [fields[3], fields[6]])
        rotation, translation = (numbers(path, where, fields[k].split()) for k in (4, 5))
        if len(rotation) != 9 or len(translation) != 3:
            raise ResultError(
                f"{path}: {where}: expected nine numbers of R and three of t, got {len(rotation)} and {len(translation)}"
            )
        matrix = np.array(rotation).reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > 0.01 or np.linalg.det(matrix) < 0:
            raise ResultError(f"{path}: {where}: R is no rotation; write it row by row")
        found.setdefault(key, []).append(Estimate(score, matrix, np.array(translation) / 1000))
    if not found:
        raise ResultError(f"{path}: holds no estimate")
    return found


def targets(frames: Iterable[Frame]) -> list[Target]:
    """The objects of every fourth frame that are labelled."""
    found = []
    for frame in frames:
        ids, grasped = frame.sequence.class_ids, frame.sequence.grasp
        for place, (obj_id, pose) in enumerate(zip(ids, frame.object_poses)):
            if frame.number % EVERY == 0 and is_rigid(pose):
                pose = pose.astype(np.float64)
                found.append(Target(frame, obj_id, pose[:, :3], pose[:, 3], place == grasped))
    return found


def errors(estimate: Estimate, target: Target, model, scene: np.ndarray | None) -> tuple[np.ndarray, float, float]:
    """VSD [10] by tau, MSSD (share of the diameter) and MSPD (px of a picture 640 px wide) of an estimate.

    Args:
        model: of :class:`~amt.evaluate.results.bop_models.Models`.
        scene: the frame's depth picture, float32 [H, W], m; 0 where nothing was measured.
    """
    vertices, faces, size, symmetries = model
    k = target.frame.intrinsics.astype(np.float64)
    poses = [
        torch.from_numpy(x)[None]
        for x in (estimate.rotation, estimate.translation, target.rotation, target.translation)
    ]
    points = torch.from_numpy(vertices)
    mssd = float(metrics.mssd_mm(*poses, points, symmetries)) / 1000 / size
    pixels = float(metrics.mspd_px(*poses, points, torch.from_numpy(k), symmetries))
    height, width = scene.shape
    drawn = [
        distances(vertices, faces, pose.rotation, pose.translation, k, (height, width)) for pose in (estimate, target)
    ]
    stretched = scene.astype(np.float64) * _ray_lengths(k, (height, width))
    vsd = metrics.vsd(*(torch.from_numpy(x) for x in (*drawn, stretched)), size, DELTA, SHARES.tolist())
    return vsd.numpy(), mssd, pixels * WIDTH / width


def distances(
    vertices: np.ndarray,
    faces: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    k: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """float64 [H, W], m: from the camera's centre to a mesh at a pose, along the ray of each pixel's centre; 0: past it."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    picture = np.zeros(size)
    posed = vertices @ rotation.T + translation
    if (posed[:, 2] <= 0).all():
        return picture
    low, high = _window(posed, k, size)
    x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    if not x.size:
        return picture
    rays = np.stack(((x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones(x.shape)), -1).reshape(-1, 3)
    tree = EmbreeScene()
    TriangleMesh(scene=tree, vertices=posed.astype(np.float32), indices=np.ascontiguousarray(faces, np.int32))
    hits = tree.run(np.zeros(rays.shape, np.float32), rays.astype(np.float32), output=True)
    found = np.where(hits["geomID"] >= 0, hits["tfar"].astype(np.float64) * np.linalg.norm(rays, axis=1), 0)
    picture[low[1] : high[1], low[0] : high[0]] = found.reshape(x.shape)
    return picture


def average_recall(vsd: np.ndarray, mssd: np.ndarray, mspd: np.ndarray) -> dict[str, float]:
    """BOP's recalls, 0-1, of N targets: the share that is below each threshold, averaged over thresholds.

    Args:
        vsd: [N, 10], by tau; mssd: [N], shares of the diameter; mspd: [N], px; inf where nothing was estimated.
    """
    found = {
        "vsd": float((vsd[..., None] < SHARES).mean()),
        "mssd": float((mssd[:, None] < SHARES).mean()),
        "mspd": float((mspd[:, None] < PIXELS).mean()),
    }
    return found | {"ar": float(np.mean(list(found.values())))}


def check(path: Path, found: dict, wanted: list[tuple[tuple[int, int, int], Target]]) -> None:
    """Raises ResultError where the file has none of the targets, or its translations are in another unit."""
    pairs = [(found[key][0], target) for key, target in wanted if key in found]
    if not pairs:
        raise ResultError(
            f"{path}: has none of the {len(wanted)} objects that are scored; check scene_id, im_id and obj_id"
        )
    estimated, true = (np.stack([x.translation for x in side]) for side in zip(*pairs))
    check_unit(path, estimated * 1000, true * 1000, "millimetres")
    check_side(path, estimated, true)


def strangers(found: dict, wanted: list[tuple[tuple[int, int, int], Target]]) -> int:
    """How many estimates of scored frames are of objects that are not in the scene, as in a file of another split."""
    known = {key for key, _ in wanted}
    return sum(key not in known for key in found if key[1] % EVERY == 0)


def write(path: Path, rows: list[str]) -> None:
    """Writes the file whole or not at all."""
    write_text(path, HEADER + "\n" + "".join(rows))


def _runs(reader: Reader):
    ends = 0
    while ends < len(reader):
        info, camera, number = reader.locate(ends)
        yield info, camera
        ends += info.num_frames - number


def _window(posed: np.ndarray, k: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels (x, y) from and up to which a mesh before the camera may be seen; all where it reaches behind it."""
    whole_picture = np.array((size[1], size[0]))
    if (posed[:, 2] < 1e-3).any():
        return np.zeros(2, int), whole_picture
    pixels = posed[:, :2] / posed[:, 2:] * (k[0, 0], k[1, 1]) + k[:2, 2]
    return tuple(
        np.clip(x, 0, whole_picture).astype(int) for x in (np.floor(pixels.min(0)), np.ceil(pixels.max(0)) + 1)
    )


def _ray_lengths(k: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float64 [H, W]: distance over depth of each pixel."""
    x, y = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    return np.sqrt(((x - k[0, 2]) / k[0, 0]) ** 2 + ((y - k[1, 2]) / k[1, 1]) ** 2 + 1)
