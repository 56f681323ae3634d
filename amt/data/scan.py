"""One sequence's part of an index: what can be used of each frame, and what is wrong with the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amt.data.dexycb import grasped_objects
from amt.data.errors import BrokenFrame, DataError, FileError, ImageError
from amt.data.files import load_npz, npz_header
from amt.data.images import glance
from amt.data.layout import FRAME_HEIGHT, FRAME_WIDTH, SERIALS, color_name, depth_name, labels_name
from amt.data.protocols import ObjectDistances
from amt.data.sequences import SequenceInfo, find_sequences
from amt.data.set_folder import SEGMENT_FAULT, Labels, SetFolder, check_size, frame_depth, frame_image, frame_segment

MOST_AWAY = 5.0  # px: from joint_2d to the projection of joint_3d
FRAME = np.dtype(
    [
        ("subset", np.int8),  # index into SUBSETS where a list says it (HO-3D); -1: the split's rule says it
        ("subject", np.int16),  # index into SUBJECTS; -1: not known
        ("sequence", np.int16),  # among its subject's, in sorted order
        ("camera", np.int16),  # index into SERIALS
        ("frame", np.int32),
        ("grasped", np.int16),  # index into GRASPED_CLASSES of the object in the hand; -1: never grasped, or not known
        ("right", bool),
        ("picture", bool),  # the .jpg can be used
        ("depth", bool),  # the depth .png can be used
        ("labels", bool),  # the labels file can be read
        ("calibrated", bool),  # the camera's intrinsics and the person's betas can be read
        ("hand", bool),  # the hand is labelled
        ("object", bool),  # the pose of the object in the hand is labelled
        ("distance", np.float32),  # mm: nearest joint to nearest vertex of the object in the hand; nan where unknown
    ]
)


@dataclass
class Scan:
    """What was found in one sequence."""

    frames: np.ndarray  # FRAME [N], by camera and frame
    problems: list[tuple[Path, str]] = field(default_factory=list)  # (file, reason), in the order they were met


class Scanner:
    """Scans sequences of one set; what they share is read once.

    Args:
        decode: decode every picture and depth image; otherwise format, size and end of these files are looked at.
    """

    def __init__(self, root: Path, decode: bool = False):
        self.files, self.decode = SetFolder(root), decode
        self.distances = ObjectDistances(self.files.objects)

    def tasks(self) -> list[tuple[SequenceInfo, int]]:
        """What :meth:`scan` takes, in the order of the index. Raises DataError."""
        sequences = find_sequences(self.files.root)
        return list(zip(sequences, grasped_objects(self.files, sequences)))

    def scan(self, info: SequenceInfo, grasped: int) -> Scan:
        """One sequence. A file that cannot be used is a problem and never an error."""
        cameras = [camera for camera, serial in enumerate(SERIALS) if serial in info.serials]
        frames = np.zeros(len(cameras) * info.num_frames, FRAME)
        frames["subset"] = -1
        frames["subject"], frames["sequence"], frames["grasped"] = info.subject, info.number, grasped
        frames["camera"] = np.repeat(cameras, info.num_frames)
        frames["frame"] = np.tile(np.arange(info.num_frames), len(cameras))
        frames["right"], frames["distance"] = info.side == "right", np.nan
        found = Scan(frames)
        if info.fault is not None:
            found.problems.append((info.fault.path, info.fault.reason))
            return found
        self._check_world(info, found)
        betas = self._try(lambda: self.files.betas(info))
        for k, camera in enumerate(cameras):
            mine = frames[k * info.num_frames : (k + 1) * info.num_frames]
            mine["calibrated"] = betas and self._try(lambda c=camera: self.files.intrinsics(c))
            self._scan_camera(info, camera, mine, found)
        return found

    def _scan_camera(self, info: SequenceInfo, camera: int, frames: np.ndarray, found: Scan) -> None:
        folder = info.folder / SERIALS[camera]
        try:
            names = set(os.listdir(folder))
        except OSError as error:
            found.problems.append((folder, f"the camera's folder cannot be listed ({error.strerror})"))
            return
        beyond = [n for n in names if (m := re.fullmatch(r"color_(\d{6})\.jpg", n)) and int(m[1]) >= info.num_frames]
        if beyond:
            found.problems.append((folder / min(beyond), "lies beyond the num_frames of meta.yml"))
        for frame in frames:
            number = int(frame["frame"])

            def usable(name: str, check: Callable[[Path], object]) -> bool:
                path = folder / name
                if name not in names:
                    found.problems.append((path, "is missing"))
                    return False
                try:
                    check(path)
                except FileError as error:
                    found.problems.append((error.path, error.reason))
                    return False
                return True

            frame["picture"] = usable(color_name(number), self._check_picture)
            frame["depth"] = usable(depth_name(number), self._check_depth)
            frame["labels"] = usable(
                labels_name(number), lambda path, n=number, f=frame: self._labels(info, camera, n, path, f, found)
            )

    def _labels(self, info: SequenceInfo, camera: int, number: int, path: Path, frame: np.void, found: Scan) -> None:
        labels = self.files.labels(info, camera, number)
        frame["hand"], frame["object"] = labels.hand_valid, labels.object_valid
        faults = [labels.hand_fault, labels.object_fault, self._segment_fault(path)]
        if labels.hand_valid and frame["calibrated"] and not self.files.distortion(camera):
            faults.append(_camera_fault(labels, self.files.intrinsics(camera)))
        found.problems += [(path, fault) for fault in faults if fault]
        if labels.hand_valid and labels.object_valid:
            pose = (labels.joints, labels.object_rotation, labels.object_translation)
            frame["distance"] = self.distances.nearest(info.class_id, *pose)

    def _segment_fault(self, path: Path) -> str:
        """What is wrong with a segmentation; training uses the frame without it."""
        try:
            if self.decode:
                frame_segment(path)
                return ""
            found = npz_header(path, "seg")
        except BrokenFrame as error:
            return error.reason
        return "" if found == ((FRAME_HEIGHT, FRAME_WIDTH), np.uint8) else SEGMENT_FAULT

    def _check_picture(self, path: Path) -> None:
        if self.decode:
            frame_image(path)
        else:
            look_at(path)

    def _check_depth(self, path: Path) -> None:
        if self.decode:
            frame_depth(path)
        else:
            look_at(path)

    def _check_world(self, info: SequenceInfo, found: Scan) -> None:
        """pose.npz, which evaluation in the world's frame reads."""
        path = info.folder / "pose.npz"
        try:
            poses = load_npz(path, ("pose_y", "pose_m"))
        except BrokenFrame as error:
            found.problems.append((error.path, error.reason))
            return
        for name, shape in (
            ("pose_y", (info.num_frames, len(info.class_ids), 7)),
            ("pose_m", (info.num_frames, 1, 51)),
        ):
            if poses[name].dtype.kind != "f" or poses[name].shape != shape:
                found.problems.append((path, f"{name} has a wrong shape or type"))

    @staticmethod
    def _try(read: Callable[[], object]) -> bool:
        try:
            read()
        except DataError:  # told once for the whole set, by the index
            return False
        return True


def _camera_fault(labels: Labels, intrinsics: np.ndarray) -> str:
    """Whether the two labels of the joints contradict the calibration: it may be another camera's, or another size's."""
    joints = labels.joints.astype(np.float64)
    if not (joints[:, 2] > 0).all():
        return "joint_3d lies behind the camera"
    seen = joints @ intrinsics.astype(np.float64).T
    away = np.linalg.norm(seen[:, :2] / seen[:, 2:] - labels.joints_2d, axis=1)
    return (
        ""
        if away.max() <= MOST_AWAY
        else f"joint_2d is not where the calibration puts joint_3d (over {MOST_AWAY:g} px)"
    )


def look_at(path: Path) -> None:
    """Format, size and end of a picture's file. Raises BrokenFrame."""
    try:
        glance(path, lambda size: check_size(size, path))
    except ImageError as error:
        raise BrokenFrame(error.path, error.reason, error.remedy) from error
