"""The folder of a set in DexYCB's layout: calibration and labels.

Nothing is read before it is asked for, and a part that is missing or broken does not stand in the way of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from amt.data.distortion import pinhole_maps
from amt.data.errors import BrokenFrame, FileError, ImageError
from amt.data.files import fit_float32, load_npz, numbers, read_yaml
from amt.data.images import read_depth, read_image
from amt.data.layout import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    LABEL_SHAPES,
    SERIALS,
    color_name,
    depth_name,
    labels_name,
)
from amt.data.parts import SetParts, is_rigid
from amt.data.sequences import SequenceInfo
from amt.hand.skeleton import NUM_JOINTS

LARGEST_HAND = 0.5  # m: from the wrist to any joint; a hand in millimetres is larger
SEGMENT_FAULT = "seg has a wrong shape or type"
CONTACT = "contact.npz"  # beside meta.yml of a rendered sequence


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
    # What is written there and cannot be: of the hand, and of the objects. "" where all is right, or said to be missing.
    hand_fault: str = field(default="", kw_only=True)
    object_fault: str = field(default="", kw_only=True)


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
    # k1, k2, p1, p2, k3 of the stored pictures' lens; () where they are a pinhole camera's, as DexYCB's are. What the methods
    # return, and joints_2d, is a pinhole camera's in any case.
    distortion: tuple[float, ...] = ()

    @property
    def folder(self) -> Path:
        return self.sequence.folder / SERIALS[self.camera]

    @property
    def image_path(self) -> Path:
        return self.folder / color_name(self.number)

    @property
    def labels_path(self) -> Path:
        return self.folder / labels_name(self.number)

    def image(self, rows: int | None = None) -> np.ndarray:
        """uint8 [480, 640, 3], RGB. Raises BrokenFrame, also where the size is not the calibration's.

        Args:
            rows: the upper rows that are wanted; those below may be black where that saves time. None: all.
        """
        return self._pinhole(frame_image(self.image_path, None if self.distortion else rows))

    def depth(self) -> np.ndarray:
        """float32 [480, 640], m; 0 where the sensor saw nothing. Raises BrokenFrame."""
        return self._pinhole(frame_depth(self.folder / depth_name(self.number)), nearest=True)

    def segment(self) -> np.ndarray:
        """uint8 [480, 640]: 0 background, 1-21 object, 255 hand. Raises BrokenFrame."""
        return self._pinhole(frame_segment(self.labels_path), nearest=True)

    def joint_visible(self) -> np.ndarray | None:
        """bool [21]: the joints that the camera sees, where the labels say it, as those of a rendered set; else None."""
        try:
            found = load_npz(self.labels_path, ("joint_visible",))["joint_visible"]
        except BrokenFrame:
            return None
        return found[0] if found.dtype == bool and found.shape == (1, NUM_JOINTS) else None

    def _pinhole(self, picture: np.ndarray, nearest: bool = False) -> np.ndarray:
        """A stored picture as a pinhole camera with the same K takes it; 0 where the lens did not look."""
        if not self.distortion:
            return picture
        import cv2

        k = self.intrinsics.astype(np.float64).tobytes()
        at = pinhole_maps(k, self.distortion, *picture.shape[:2])
        return cv2.remap(picture, at, None, cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)


def frame_image(path: Path, rows: int | None = None) -> np.ndarray:
    """uint8 [480, 640, 3], RGB: a picture of the calibration's size, or its upper rows. Raises BrokenFrame."""
    try:
        image, _ = read_image(path, lambda size: check_size(size, path), rows)
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


def frame_segment(path: Path) -> np.ndarray:
    """uint8 [480, 640]: the segmentation in a labels file. Raises BrokenFrame."""
    segment = load_npz(path, ("seg",))["seg"]
    if segment.dtype != np.uint8 or segment.shape != (FRAME_HEIGHT, FRAME_WIDTH):
        raise BrokenFrame(path, SEGMENT_FAULT)
    return segment


class SetFolder(SetParts):
    """A set in DexYCB's layout: the recorded one, or one that ``amt.data.synthetic`` rendered.

    Args:
        root: folder with the subjects' folders, ``calibration`` and ``models``.
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl. Not needed for a set rendered with AMT's own hand.
    """

    def __init__(self, root: str | Path, mano: str | Path | None = None):
        super().__init__(root, mano)
        # A set's folder is small beside its frames: each file of it is read once.
        self._intrinsics, self._betas = cache(self._read_intrinsics), cache(self._read_betas)
        self._distortion = cache(self._read_distortion)
        self._extrinsics, self._contact = cache(self._read_extrinsics), cache(self._read_contact)

    def intrinsics(self, camera: int) -> np.ndarray:
        """float32 [3, 3], px: K of a camera (index into SERIALS). Raises DataError."""
        return self._intrinsics(SERIALS[camera])

    def distortion(self, camera: int) -> tuple[float, ...]:
        """k1, k2, p1, p2, k3 of a camera's stored pictures, in the calibration as ``coeffs``; () for none. Raises DataError."""
        return self._distortion(SERIALS[camera])

    def extrinsics(self, sequence: SequenceInfo, camera: int) -> np.ndarray:
        """float64 [3, 4], m: takes points of the camera's frame to the world frame, that of pose.npz. Raises DataError."""
        return self._extrinsics(sequence.extrinsics)[SERIALS[camera]]

    def betas(self, sequence: SequenceInfo) -> np.ndarray:
        """float32 [10]: the shape of the person's hand. Raises DataError."""
        return self._betas(sequence.mano_calib)

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
        unmarked = (joints == -1).all(1).any() or (joints_2d == -1).all()  # -1 is how the set says "not labelled"
        labelled = bool(code.any() and not unmarked)
        hand_fault = _hand_fault({name: found[name] for name in ("pose_m", "joint_3d", "joint_2d")}) if labelled else ""
        hand_valid, object_valid = labelled and not hand_fault, is_rigid(grasped)
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
            hand_fault=hand_fault,
            object_fault=_object_fault(poses),
        )

    def frame(self, sequence: SequenceInfo, camera: int, number: int, index: int = -1) -> Frame:
        """The labels of one picture with camera, person and pose. Raises BrokenFrame, DataError."""
        labels = self.labels(sequence, camera, number)
        code, k, distortion = labels.hand_code, self.intrinsics(camera), self.distortion(camera)
        if distortion and labels.hand_valid:
            seen = labels.joints.astype(np.float64) @ k.astype(np.float64).T
            labels = replace(labels, joints_2d=(seen[:, :2] / seen[:, 2:]).astype(np.float32))
        pose = self.layer(sequence.side).pca_to_pose(torch.from_numpy(code[3:48])).numpy()
        return Frame(
            **vars(labels),
            index=index,
            sequence=sequence,
            camera=camera,
            number=number,
            intrinsics=k,
            betas=self.betas(sequence),
            pose=np.concatenate([code[:3], pose]),
            translation=code[48:],
            distortion=distortion,
        )

    def known_contacts(self, frame: Frame) -> tuple[np.ndarray, np.ndarray] | None:
        """What contact.npz says, which the synthetic writer leaves beside meta.yml."""
        try:
            known = self._contact(frame.sequence.folder)
        except BrokenFrame as error:
            self.note_broken(error)
            return None
        if known is None or frame.number >= min(map(len, known)):
            return None
        return known[0][frame.number], known[1][frame.number]

    def contact_distances(self, frame: Frame) -> tuple[np.ndarray, np.ndarray] | None:
        """What contact.npz says. Raises BrokenFrame."""
        path = frame.sequence.folder / CONTACT
        if not path.is_file():
            return None
        found = load_npz(path, ("hand_distance", "object_distance")).values()
        if any(array.dtype != np.float32 or array.ndim != 2 or len(array) <= frame.number for array in found):
            raise BrokenFrame(path, "a distance has a wrong shape or type")
        return tuple(array[frame.number] for array in found)

    def _lens_file(self, serial: str) -> Path:
        return self.root / "calibration" / "intrinsics" / f"{serial}_{FRAME_WIDTH}x{FRAME_HEIGHT}.yml"

    def _read_distortion(self, serial: str) -> tuple[float, ...]:
        path = self._lens_file(serial)
        lens = read_yaml(path).get("color")
        found = lens.get("coeffs") if isinstance(lens, dict) else None
        coefficients = np.zeros(5) if found is None else numbers(path, found, 5, "five coeffs of the lens")
        return tuple(map(float, coefficients)) if coefficients.any() else ()

    def _read_intrinsics(self, serial: str) -> np.ndarray:
        path = self._lens_file(serial)
        lens = read_yaml(path).get("color")
        try:
            fx, fy, cx, cy = (float(lens[k]) for k in ("fx", "fy", "ppx", "ppy"))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise FileError(path, "has no color fx, fy, ppx, ppy", "put the set's calibration back") from error
        if not (fx > 0 and fy > 0 and fit_float32([fx, fy, cx, cy])):
            wrong = f"focal lengths must be positive and all numbers finite, got fx {fx}, fy {fy}, ppx {cx}, ppy {cy}"
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
        path = folder / CONTACT
        if not path.is_file():
            return None
        found = load_npz(path, ("hand", "object"))
        for name, array in found.items():
            if array.dtype != bool or array.ndim != 2:
                raise BrokenFrame(path, f"{name} has a wrong shape or type")
        return found["hand"], found["object"]


def _hand_fault(arrays: dict[str, np.ndarray]) -> str:
    """What cannot be in the labels of a hand; "" if nothing."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            return f"{name} holds a number that is not finite"
    return too_large("joint_3d", arrays["joint_3d"][0])


def too_large(name: str, joints: np.ndarray) -> str:
    """That joints [21, 3], of which the first is the wrist, cannot be a hand's in metres; "" if they can."""
    if np.linalg.norm(joints.astype(np.float64) - joints[0], axis=1).max() <= LARGEST_HAND:
        return ""
    return f"{name} is larger than a hand in metres ({LARGEST_HAND:g} m from the wrist)"


def _object_fault(poses: np.ndarray) -> str:
    """What cannot be among the poses [O, 3, 4] of objects, of which those that are missing are zeros; "" if nothing."""
    if not np.isfinite(poses).all():
        return "pose_y holds a number that is not finite"
    return "" if all(is_rigid(pose) for pose in poses if pose.any()) else "pose_y holds what is no rotation"


def check_size(size: tuple[int, int], path: Path, remedy: str = "put the original picture back") -> None:
    """Raises BrokenFrame unless a picture's (height, width) is the one that the calibration was made for."""
    if tuple(size) != (FRAME_HEIGHT, FRAME_WIDTH):
        raise BrokenFrame(
            path,
            f"is {size[1]} x {size[0]} px, and its camera's calibration is for {FRAME_WIDTH} x {FRAME_HEIGHT} px",
            remedy,
        )
