"""The folder of a set in DexYCB's layout: calibration, hands, object models and labels.

Nothing is read before it is asked for, and a part that is missing or broken does not stand in the way of the others.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch

from amt.data.errors import BrokenFrame, DataError, FileError, ImageError, MissingHand
from amt.data.files import load_npz, numbers, read_file, read_yaml
from amt.data.images import read_depth, read_image
from amt.data.layout import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    LABEL_SHAPES,
    SERIALS,
    SYNTHETIC_RECORD,
    color_name,
    depth_name,
    hand_digest,
    labels_name,
)
from amt.data.objects import ObjectModels
from amt.data.sequences import SequenceInfo
from amt.hand.contact import contact_labels
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.stand_in import stand_in_hand

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """One labels file, in its camera's frame (metres). Fields of an invalid hand or object hold finite fillers."""

    joints: np.ndarray  # float32 [21, 3], m
    joints_2d: np.ndarray  # float32 [21, 2], px
    hand_code: np.ndarray  # float32 [51]: axis-angle of the wrist, 45 PCA coefficients, translation (m)
    hand_valid: bool
    object_rotation: np.ndarray  # float32 [3, 3]
    object_translation: np.ndarray  # float32 [3], m
    object_valid: bool
    object_poses: np.ndarray  # float32 [O, 3, 4], m: all objects of the scene; zeros where missing


@dataclass(frozen=True)
class Frame(Labels):
    """One picture's labels with all that they mean: camera, person and pose."""

    index: int  # in its reader; -1 for a frame that was looked up by its picture
    sequence: SequenceInfo
    camera: int  # index into SERIALS
    number: int  # frame of the sequence
    intrinsics: np.ndarray  # float32 [3, 3], px
    betas: np.ndarray  # float32 [10]
    pose: np.ndarray  # float32 [48], axis-angle with hands_mean
    translation: np.ndarray  # float32 [3], m

    @property
    def folder(self) -> Path:
        return self.sequence.folder / SERIALS[self.camera]

    @property
    def image_path(self) -> Path:
        return self.folder / color_name(self.number)

    def image(self) -> np.ndarray:
        """uint8 [480, 640, 3], RGB. Raises BrokenFrame, also where the size is not the calibration's."""
        return frame_image(self.image_path)

    def depth(self) -> np.ndarray:
        """float32 [480, 640], m; 0 where the sensor saw nothing. Raises BrokenFrame."""
        return frame_depth(self.folder / depth_name(self.number))

    def segment(self) -> np.ndarray:
        """uint8 [480, 640]: 0 background, 1-21 object, 255 hand. Raises BrokenFrame."""
        path = self.folder / labels_name(self.number)
        segment = load_npz(path, ("seg",))["seg"]
        if segment.dtype != np.uint8 or segment.shape != (FRAME_HEIGHT, FRAME_WIDTH):
            raise BrokenFrame(path, "seg has a wrong shape or type")
        return segment


def frame_image(path: Path) -> np.ndarray:
    """uint8 [480, 640, 3], RGB: a picture of the calibration's size. Raises BrokenFrame."""
    try:
        image, _ = read_image(path, lambda size: check_size(size, path))
    except ImageError as error:
        raise BrokenFrame(error.path, error.reason, error.remedy) from error
    check_size(image.shape[:2], path)
    return image


def frame_depth(path: Path) -> np.ndarray:
    """float32 [480, 640], m, of a PNG in millimetres. Raises BrokenFrame."""
    try:
        return read_depth(path, lambda size: check_size(size, path)).astype(np.float32) / 1000
    except ImageError as error:
        raise BrokenFrame(error.path, error.reason, error.remedy) from error


class SetFolder:
    """A set in DexYCB's layout: the recorded one, or one that ``amt.data.synthetic`` rendered.

    Args:
        root: folder with the subjects' folders, ``calibration`` and ``models``.
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl. Not needed for a set rendered with the stand-in hand.
    """

    def __init__(self, root: str | Path, mano: str | Path | None = None):
        self.root, self.mano = Path(root), None if mano is None else Path(mano)
        self.broken: dict[str, dict[Path, None]] = defaultdict(dict)  # reason: files, in the order they were met
        # A set's folder is small beside its frames: each file of it is read once.
        self._intrinsics, self._betas = cache(self._read_intrinsics), cache(self._read_betas)
        self._extrinsics, self._contact = cache(self._read_extrinsics), cache(self._read_contact)
        self.hand_model, self.layer = cache(self._read_hand), cache(self._read_layer)

    @cached_property
    def record(self) -> dict:
        """What the synthetic writer noted about the set; empty for a recorded one. Raises DataError."""
        note = self.root / SYNTHETIC_RECORD
        if not note.is_file():
            return {}
        try:
            record = json.loads(read_file(note))
        except (ValueError, OSError, RecursionError) as error:
            raise FileError(note, f"is not readable as JSON ({error})", "render the set anew") from error
        if not isinstance(record, dict):
            raise FileError(note, "is no JSON object", "render the set anew")
        return record

    @cached_property
    def objects(self) -> ObjectModels:
        """The object models. Raises DataError."""
        return ObjectModels(self.root, {int(c): n for c, n in self.record.get("object_names", {}).items()})

    def intrinsics(self, camera: int) -> np.ndarray:
        """float32 [3, 3], px: K of a camera (index into SERIALS). Raises DataError."""
        return self._intrinsics(SERIALS[camera])

    def extrinsics(self, sequence: SequenceInfo, camera: int) -> np.ndarray:
        """float64 [3, 4], m: takes points of the camera's frame to the world frame, that of pose.npz. Raises DataError."""
        return self._extrinsics(sequence.extrinsics)[SERIALS[camera]]

    def labels(self, sequence: SequenceInfo, camera: int, number: int) -> Labels:
        """The labels of one picture. Raises BrokenFrame."""
        if sequence.fault is not None:
            raise BrokenFrame(sequence.fault.path, sequence.fault.reason, sequence.fault.remedy)
        path = sequence.folder / SERIALS[camera] / labels_name(number)
        found = load_npz(path, tuple(LABEL_SHAPES))
        for name, shape in LABEL_SHAPES.items():
            expected = tuple(len(sequence.class_ids) if length == "O" else length for length in shape)
            if found[name].dtype.kind != "f" or found[name].shape != expected:
                raise BrokenFrame(path, f"{name} has a wrong shape or type")
        with np.errstate(over="ignore"):  # numbers that float32 cannot hold become inf: invalid, as below
            found = {name: array.astype(np.float32) for name, array in found.items()}
        code, joints, joints_2d = (found[name][0] for name in ("pose_m", "joint_3d", "joint_2d"))
        poses = found["pose_y"]
        grasped = poses[sequence.grasp] if len(poses) else np.zeros((3, 4), np.float32)
        finite = all(np.isfinite(array).all() for array in (code, joints, joints_2d))
        unmarked = (joints == -1).all(1).any() or (joints_2d == -1).all()  # -1 is how the set says "not labelled"
        hand_valid = bool(finite and code.any() and not unmarked)
        object_valid = _is_rigid(grasped)
        if not hand_valid:
            code, joints, joints_2d = (np.zeros_like(array) for array in (code, joints, joints_2d))
        if not object_valid:
            grasped = np.eye(3, 4, dtype=np.float32)
        return Labels(
            joints=joints,
            joints_2d=joints_2d,
            hand_code=code,
            hand_valid=hand_valid,
            object_rotation=grasped[:, :3].copy(),
            object_translation=grasped[:, 3].copy(),
            object_valid=object_valid,
            object_poses=poses,
        )

    def frame(self, sequence: SequenceInfo, camera: int, number: int, index: int = -1) -> Frame:
        """The labels of one picture with camera, person and pose. Raises BrokenFrame, DataError."""
        labels = self.labels(sequence, camera, number)
        code = labels.hand_code
        pose = self.layer(sequence.side).pca_to_pose(torch.from_numpy(code[3:48])).numpy()
        return Frame(
            **vars(labels),
            index=index,
            sequence=sequence,
            camera=camera,
            number=number,
            intrinsics=self.intrinsics(camera),
            betas=self._betas(sequence.mano_calib),
            pose=np.concatenate([code[:3], pose]),
            translation=code[48:],
        )

    def contacts(self, frame: Frame, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Contacts of the hand (bool [778]) and of the object's cloud (bool [N]): the set's own, or else by distance.

        Args:
            vertices: float32 [778, 3], m: the true hand.
        """
        cloud = self.objects.cloud(frame.sequence.class_id)
        try:
            known = self._contact(frame.sequence.folder)
        except BrokenFrame as error:
            self.note_broken(error)
            known = None
        if known is not None and frame.number < len(known[0]) and known[1].shape[1:] == cloud.shape[:1]:
            return known[0][frame.number], known[1][frame.number]
        if not frame.object_valid:
            return np.zeros(len(vertices), bool), np.zeros(len(cloud), bool)
        posed = torch.from_numpy(cloud @ frame.object_rotation.T + frame.object_translation)
        hand, points = contact_labels(torch.from_numpy(vertices), posed)
        return hand.numpy(), points.numpy()

    def note_broken(self, error: FileError) -> None:
        """Counts a broken file; the first of each kind of fault is told at once."""
        files = self.broken[error.reason]
        if not files:
            log.warning("skipped %s (the first such file; they are counted)", error)
        files[error.path] = None

    def report(self) -> str:
        """One line on what was skipped: a count for each reason and its first file. Empty if nothing was."""
        return count_by_reason({reason: (len(files), next(iter(files))) for reason, files in self.broken.items()})

    def _read_layer(self, side: str) -> ManoLayer:
        return ManoLayer(self.hand_model(side))

    def _read_hand(self, side: str) -> HandModel:
        if self.record.get("hand") == "stand-in":
            if self.record.get("hand_digest") != hand_digest(stand_in_hand("right")):
                raise DataError(f"{self.root}: was rendered with another version of the stand-in hand; render it anew")
            return stand_in_hand(side)
        if self.mano is None:
            raise MissingHand(
                f"{self.root}: its hands are MANO's, and MANO's files cannot be shipped; get them from "
                "mano.is.tue.mpg.de and name their folder (data.mano=FOLDER)"
            )
        from amt.hand.mano_file import load_mano

        path = self.mano / f"MANO_{side.upper()}.pkl"
        try:
            return load_mano(path, side)
        except FileNotFoundError as error:
            raise MissingHand(str(error)) from error
        except ValueError as error:
            raise DataError(str(error)) from error

    def _read_intrinsics(self, serial: str) -> np.ndarray:
        path = self.root / "calibration" / "intrinsics" / f"{serial}_{FRAME_WIDTH}x{FRAME_HEIGHT}.yml"
        lens = read_yaml(path).get("color")
        try:
            fx, fy, cx, cy = (float(lens[k]) for k in ("fx", "fy", "ppx", "ppy"))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise FileError(path, "has no color fx, fy, ppx, ppy", "put the set's calibration back") from error
        if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
            wrong = f"focal lengths must be positive, got fx {fx}, fy {fy}"
            raise FileError(path, wrong, "put the set's calibration back")
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)

    def _read_betas(self, calibration: str) -> np.ndarray:
        path = self.root / "calibration" / f"mano_{calibration}" / "mano.yml"
        return numbers(path, read_yaml(path).get("betas"), 10, "ten betas").astype(np.float32)

    def _read_extrinsics(self, name: str) -> dict[str, np.ndarray]:
        path = self.root / "calibration" / f"extrinsics_{name}" / "extrinsics.yml"
        placed = read_yaml(path).get("extrinsics")
        placed = placed if isinstance(placed, dict) else {}
        what = f"twelve numbers for each of {len(SERIALS)} cameras"
        return {s: numbers(path, placed.get(s), 12, what).reshape(3, 4) for s in SERIALS}

    def _read_contact(self, folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
        path = folder / "contact.npz"
        if not path.is_file():
            return None
        found = load_npz(path, ("hand", "object"))
        return found["hand"], found["object"]


def _is_rigid(pose: np.ndarray) -> bool:
    """Whether [3, 4] is a rotation and a translation; zeros, which stand for a missing pose, are not."""
    rotation = pose[:, :3].astype(np.float64)
    if not np.isfinite(pose).all():
        return False
    return bool(np.abs(rotation @ rotation.T - np.eye(3)).max() < 0.01 and np.linalg.det(rotation) > 0)


def check_size(size: tuple[int, int], path: Path, remedy: str = "put the original picture back") -> None:
    """Raises BrokenFrame unless a picture's (height, width) is the one that the calibration was made for."""
    if tuple(size) != (FRAME_HEIGHT, FRAME_WIDTH):
        raise BrokenFrame(
            path,
            f"is {size[1]} x {size[0]} px, and its camera's calibration is for {FRAME_WIDTH} x {FRAME_HEIGHT} px",
            remedy,
        )


def count_by_reason(broken: dict[str, tuple[int, str | Path]]) -> str:
    """One line of {reason: (count, first file)}."""
    return "; ".join(f"{count} skipped: {reason} (the first: {first})" for reason, (count, first) in broken.items())
