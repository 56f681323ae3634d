"""The reader of HO-3D version 3: right hands that hold a YCB object, pictures from one to five cameras.

    train.txt, evaluation.txt               one line a frame, SEQUENCE/0000: the line's number is the sample's id
    train/SEQUENCE/rgb/0000.jpg             640 x 480
    train/SEQUENCE/meta/0000.pkl            labels, in OpenGL's camera frame: x right, y up, z backward, metres
    train/SEQUENCE/depth/0000.png           depth in two of three channels
    evaluation/SEQUENCE/...                 the same; of the hand only the wrist is labelled
    models/003_cracker_box/...              YCB's models, put here by the user

From the set's public documentation (github.com/shreyashampali/ho3d). Its joints are MANO's 16 and five tips, in MANO's order;
its poses are full axis-angle, turned about the rest wrist as MANO does.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amt.data.errors import BrokenFrame, DataError, EmptySubset, FileError
from amt.data.files import fit_float32, read_file
from amt.data.layout import CLASS_NAMES
from amt.data.parts import SetParts, is_rigid
from amt.data.reader import Reader
from amt.data.root import HO3D_PARTS as PARTS
from amt.data.sequences import SequenceInfo
from amt.data.set_folder import Frame, Labels, frame_image, too_large
from amt.hand.array_pickle import Shell, unpickle
from amt.hand.skeleton import MANO_TO_SKELETON

SPLIT = "official"
_OPENGL = np.diag([1.0, -1.0, -1.0])  # OpenGL's camera frame to ours, and back
_DEPTH_UNIT = 0.00012498664727900177  # m
_MOST_META, _MOST_LIST = 4 << 20, 16 << 20  # bytes
_CLASSES = {name: class_id for class_id, name in CLASS_NAMES.items()}
_HAND = ("handPose", "handBeta", "handTrans")
# The arrays that are read, and how many numbers each has.
_FIELDS = {
    "camMat": 9,
    "handPose": 48,
    "handBeta": 10,
    "handTrans": 3,
    "objRot": 3,
    "objTrans": 3,
    "handBoundingBox": 4,
}


class Ho3dFrame(Frame):
    """A frame whose files lie as HO-3D's do."""

    @property
    def folder(self) -> Path:
        return self.sequence.folder

    @property
    def image_path(self) -> Path:
        return self.folder / "rgb" / f"{self.number:04d}.jpg"

    @property
    def labels_path(self) -> Path:
        return meta_path(self.folder, self.number)

    def depth(self) -> np.ndarray:
        """float32 [480, 640], m; 0 where the sensor saw nothing. Raises BrokenFrame."""
        red, green, _ = np.moveaxis(
            frame_image(self.folder / "depth" / f"{self.number:04d}.png").astype(np.int64), -1, 0
        )
        return ((red + 256 * green) * _DEPTH_UNIT).astype(np.float32)

    def segment(self) -> np.ndarray:
        """Raises BrokenFrame: the set's masks have another form, which is not read."""
        raise BrokenFrame(self.folder / "seg", "the masks of HO-3D are not read", "do without segmentation")

    def joint_visible(self) -> None:
        """The labels do not say it."""


class Ho3dFolder(SetParts):
    """The folder of the set: frames by their sequence and number. Nothing is read before it is asked for."""

    def frame(self, info: SequenceInfo, number: int, index: int = -1) -> Ho3dFrame:
        """A frame with its labels and pose. Raises BrokenFrame, DataError."""
        path = meta_path(info.folder, number)
        meta = read_meta(path)
        return Ho3dFrame(
            **vars(labels_of(meta, path)) | self._pose(meta),
            index=index,
            sequence=with_object(info, meta),
            camera=0,
            number=number,
            intrinsics=camera_of(meta, path).astype(np.float32),
        )

    def _pose(self, meta: dict[str, Any]) -> dict[str, np.ndarray]:
        """The pose of a frame's hand in our camera frame; the mean pose where the hand is not labelled."""
        layer = self.layer("right")
        if labelled_joints(meta) is None:
            pose = np.concatenate([np.zeros(3, np.float32), layer.hands_mean.numpy()])
            return {"pose": pose, "betas": np.zeros(10, np.float32), "translation": np.zeros(3, np.float32)}
        pose, betas, translation = (meta[name] for name in _HAND)
        with torch.no_grad():
            root = layer.rest_joints(torch.from_numpy(betas).float()[None])[0, 0].double().numpy()
            code = layer.pose_to_pca(torch.from_numpy(pose[3:]).float()).numpy()
        # The hand turns about its rest wrist J0: C (R (v - J0) + J0 + t) = C R (v - J0) + J0 + [C (J0 + t) - J0].
        from scipy.spatial.transform import Rotation  # half a second, also for whoever has no such set

        wrist = (Rotation.from_matrix(_OPENGL) * Rotation.from_rotvec(pose[:3])).as_rotvec()
        translation = _OPENGL @ (root + translation) - root
        return {
            "hand_code": np.concatenate([wrist, code, translation]).astype(np.float32),
            "pose": np.concatenate([wrist, pose[3:]]).astype(np.float32),
            "betas": betas.astype(np.float32),
            "translation": translation.astype(np.float32),
        }


class HO3D(Ho3dFolder, Reader):
    """The training or the evaluation set: ``len``, ``[i] -> Frame``. Sample i is line i of train.txt or evaluation.txt.

    Args:
        root: folder with ``train``, ``evaluation``, their lists, and ``models``.
        split: "official", the only one.
        subset: "train" or "test"; the latter is called evaluation in the set, which has no validation set.
        mano: folder with MANO_RIGHT.pkl.

    Raises:
        EmptySubset: the set has no such subset, or its list is empty.
        MissingHand: no MANO file.
        DataError: a folder or a list that is missing or not in this layout.
    """

    sides = ("right",)
    shared_folders = ("models",)

    def __init__(self, root: str | Path, split: str = SPLIT, subset: str = "train", mano: str | Path | None = None):
        super().__init__(root, mano)
        if split != SPLIT:
            raise DataError(f"split must be {SPLIT} for HO-3D; got {split!r}")
        if subset == "val":
            raise EmptySubset(f"{self.root}: HO-3D has no validation set; take train or test")
        if subset not in PARTS:
            raise DataError(f"subset must be train or test; got {subset!r}")
        self.split, self.subset = split, subset
        self._list, self._part = self.root / PARTS[subset][0], self.root / PARTS[subset][1]
        names = read_list(self._list)
        self._folders = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in names))}
        self._frames = [(self._folders[name], number) for name, number in names]
        counts = np.bincount([folder for folder, _ in self._frames])
        self.sequences = [
            SequenceInfo(self._part / name, -1, number, int(counts[number]), (), (), 0, "right", "", "")
            for name, number in self._folders.items()
        ]
        self.layer("right")  # a set whose hands cannot be posed is refused here, not at its first frame

    def __len__(self) -> int:
        return len(self._frames)

    def frame_folders(self) -> list[Path]:
        return [info.folder / part for info in self.sequences for part in ("rgb", "meta")]

    def shared_files(self) -> list[Path]:
        return [self._list]

    def locate(self, index: int) -> tuple[SequenceInfo, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} frames")
        folder, number = self._frames[index]
        return self.sequences[folder], 0, number

    def __getitem__(self, index: int) -> Ho3dFrame:
        info, _, number = self.locate(int(index))
        return self.frame(info, number, int(index))


def meta_path(folder: Path, number: int) -> Path:
    """The labels of a frame of the sequence in a folder."""
    return folder / "meta" / f"{number:04d}.pkl"


def read_meta(path: Path) -> dict[str, Any]:
    """The labels in a meta file: float64 arrays, None where there are none, and objName. Raises BrokenFrame."""
    try:
        meta = unpickle(read_file(path, _MOST_META))
    except FileNotFoundError as error:
        raise BrokenFrame(path, "is missing") from error
    except OSError as error:
        raise BrokenFrame(path, str(error.strerror)) from error
    except ValueError as error:
        refused = (
            "asks for what labels do not need; do not trust it" if "refused" in str(error) else "is no readable pickle"
        )
        raise BrokenFrame(path, refused) from error
    if not isinstance(meta, dict):
        raise BrokenFrame(path, "holds no dictionary")
    found: dict[str, Any] = {name: _numbers(path, meta, name, (count,)) for name, count in _FIELDS.items()}
    found["handJoints3D"] = _numbers(path, meta, "handJoints3D", (63, 3))  # in the evaluation set, the wrist alone
    found["objName"] = meta.get("objName") if isinstance(meta.get("objName"), str) else ""
    return found


def _numbers(path: Path, meta: dict, name: str, counts: tuple[int, ...]) -> np.ndarray | None:
    value = meta.get(name)
    try:
        value = value.array(name) if isinstance(value, Shell) and hasattr(value, "array") else value
        if value is None:
            return None
        numbers = np.asarray(value, np.float64).ravel()
    except (ValueError, TypeError, OverflowError) as error:
        raise BrokenFrame(path, f"{name} has a wrong shape or type") from error
    if numbers.size not in counts:
        raise BrokenFrame(path, f"{name} has a wrong shape or type")
    return numbers


def labelled_joints(meta: dict[str, Any]) -> np.ndarray | None:
    """float64 [21, 3], m: the joints in our camera frame and order; None where no such hand is labelled in full."""
    joints, parts = meta["handJoints3D"], [meta[name] for name in _HAND]
    if joints is None or joints.size != 63 or any(part is None for part in parts):
        return None
    joints = joints.reshape(21, 3)[list(MANO_TO_SKELETON)] @ _OPENGL
    return None if hand_fault(meta) or (joints[:, 2] <= 0).any() else joints


def hand_fault(meta: dict[str, Any]) -> str:
    """What cannot be in the labels of a hand; "" if nothing."""
    for name in ("handJoints3D", *_HAND):
        if meta[name] is not None and not fit_float32(meta[name]):
            return f"{name} holds a number that is not finite"
    joints = meta["handJoints3D"]
    return too_large("handJoints3D", joints.reshape(21, 3)) if joints is not None and joints.size == 63 else ""


def labels_of(meta: dict[str, Any], path: Path) -> Labels:
    """What a meta file says that takes no hand model to read; the pose's code is 0. Raises BrokenFrame."""
    joints = labelled_joints(meta)
    known = joints is not None
    pixels = (joints if known else np.ones((21, 3))) @ camera_of(meta, path).T
    joints_2d = pixels[:, :2] / pixels[:, 2:]
    return Labels(
        joints=(joints if known else np.zeros((21, 3))).astype(np.float32),
        joints_2d=(joints_2d if known else np.zeros((21, 2))).astype(np.float32),
        hand_code=np.zeros(51, np.float32),
        hand_valid=known,
        hand_fault=hand_fault(meta),
        **object_fields(meta, class_of(meta)),
    )


def hand_corners(frame: Ho3dFrame) -> np.ndarray:
    """float64 [2, 2], px: top left and bottom right of the hand, which the evaluation set tells. Raises BrokenFrame."""
    path = meta_path(frame.folder, frame.number)
    corners = read_meta(path)["handBoundingBox"]
    if corners is None or not np.isfinite(corners).all():
        raise BrokenFrame(path, "has no handBoundingBox")
    return corners.reshape(2, 2)


def to_opengl(joints: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints [21, 3] and vertices [V, 3], m, from our camera frame and order to the set's."""
    ordered = np.empty_like(joints)
    ordered[list(MANO_TO_SKELETON)] = joints
    return ordered @ _OPENGL, vertices @ _OPENGL


def camera_of(meta: dict[str, Any], path: Path) -> np.ndarray:
    """float64 [3, 3], px: K. Raises BrokenFrame."""
    if meta["camMat"] is None:
        raise BrokenFrame(path, "has no camMat")
    intrinsics = meta["camMat"].reshape(3, 3)
    if not (fit_float32(intrinsics) and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
        raise BrokenFrame(path, "its camMat is no camera's")
    return intrinsics


def with_object(info: SequenceInfo, meta: dict[str, Any]) -> SequenceInfo:
    """A sequence with the object that a frame of it names."""
    class_id = class_of(meta)
    return replace(info, class_ids=(class_id,) if class_id else ())


def class_of(meta: dict[str, Any]) -> int:
    """1-21: the object that objName says; 0 where it is none of YCB's here."""
    return _CLASSES.get(meta["objName"], 0)


def object_fields(meta: dict[str, Any], class_id: int) -> dict[str, np.ndarray | bool]:
    """The object's fields of a frame, in our camera frame."""
    pose = np.zeros((3, 4))
    if class_id and meta["objRot"] is not None and meta["objTrans"] is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.isfinite(meta["objRot"]).all()
            from scipy.spatial.transform import Rotation

            pose[:, :3] = _OPENGL @ Rotation.from_rotvec(meta["objRot"]).as_matrix() if finite else np.nan
        pose[:, 3] = _OPENGL @ meta["objTrans"]
    valid = is_rigid(pose)
    pose = (pose if valid else np.eye(3, 4)).astype(np.float32)
    return {
        "object_rotation": pose[:, :3].copy(),
        "object_translation": pose[:, 3].copy(),
        "object_valid": valid,
        "object_poses": pose[None],
    }


def read_list(path: Path) -> list[tuple[str, int]]:
    """(sequence, frame) of each line. Raises DataError."""
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder; name the folder of HO-3D version 3")
    try:
        lines = read_file(path, _MOST_LIST).decode().split()
    except UnicodeDecodeError as error:
        raise FileError(path, "is not text") from error
    except OSError as error:
        raise FileError(
            path, str(error.strerror), "name the folder of HO-3D version 3, with its lists of frames"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([A-Za-z0-9_-]{1,100})/(\d{4,6})", line)
        if match is None:
            raise FileError(path, f"line {number} is not SEQUENCE/0000")
        found.append((match[1], int(match[2])))
    if not found:
        raise EmptySubset(f"{path}: names no frame; copy it anew")
    return found
