"""The one reader of DexYCB's layout: the recorded set, or a synthetic one that ``amt.data.synthetic`` wrote.

The index of a split runs subject, sequence, camera, frame, exactly as the data set's own toolkit numbers it: that integer
is the id in result files. Building it reads one small file a sequence and touches no frame; labels and pictures are read
when asked for.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from amt.data.layout import (
    CLASS_NAMES,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FULL_SEQUENCES,
    GRASPED_CLASSES,
    SERIALS,
    SUBJECTS,
    SYNTHETIC_RECORD,
    DataError,
    check_split,
    color_name,
    depth_name,
    hand_digest,
    in_subset,
    labels_name,
)
from amt.data.objects import ObjectModels
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.stand_in import stand_in_hand

log = logging.getLogger(__name__)


class BrokenFrame(DataError):
    """A frame whose picture or labels are missing or cut short."""


@dataclass(frozen=True)
class SequenceInfo:
    """What meta.yml and the calibration say about a sequence."""

    folder: Path
    subject: int
    number: int  # among its subject's sequences, in sorted order
    num_frames: int
    serials: tuple[str, ...]
    class_ids: tuple[int, ...]  # the objects in the scene
    grasp: int  # index into class_ids of the one in the hand
    side: str  # "right" or "left"
    extrinsics: str
    mano_calib: str

    @property
    def class_id(self) -> int:
        """1-21: the object in the hand."""
        return self.class_ids[self.grasp]


@dataclass(frozen=True)
class Frame:
    """One picture's labels, in its camera's frame (metres). Fields of an invalid hand or object hold finite fillers."""

    index: int
    sequence: SequenceInfo
    camera: int  # index into SERIALS
    number: int  # frame of the sequence
    intrinsics: np.ndarray  # float32 [3, 3], px
    betas: np.ndarray  # float32 [10]
    joints: np.ndarray  # float32 [21, 3], m
    joints_2d: np.ndarray  # float32 [21, 2], px
    pose: np.ndarray  # float32 [48], axis-angle with hands_mean
    translation: np.ndarray  # float32 [3], m
    hand_valid: bool
    object_rotation: np.ndarray  # float32 [3, 3]
    object_translation: np.ndarray  # float32 [3], m
    object_valid: bool
    object_poses: np.ndarray  # float32 [O, 3, 4], m: all objects of the scene; zeros where missing

    @property
    def folder(self) -> Path:
        return self.sequence.folder / SERIALS[self.camera]

    @property
    def image_path(self) -> Path:
        return self.folder / color_name(self.number)

    def image(self) -> np.ndarray:
        """uint8 [480, 640, 3], RGB. Raises BrokenFrame."""
        return read_image(self.image_path)

    def depth(self) -> np.ndarray:
        """float32 [480, 640], m; 0 where the sensor saw nothing. Raises BrokenFrame."""
        import cv2

        path = self.folder / depth_name(self.number)
        millimetres = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if millimetres is None:
            raise BrokenFrame(f"{path}: is missing or not a whole PNG; copy it anew")
        return millimetres.astype(np.float32) / 1000

    def segment(self) -> np.ndarray:
        """uint8 [480, 640]: 0 background, 1-21 object, 255 hand. Raises BrokenFrame."""
        return _load_npz(self.folder / labels_name(self.number), ("seg",))["seg"]


class DexYCB:
    """A subset of a split: ``len``, ``[i] -> Frame``, and what calibration and models say.

    On a recorded set the object in the hand is sequence // 5, which decides split s3. A synthetic set with fewer than 100
    sequences a subject cannot follow that: there meta.yml says which object is held.

    Args:
        root: folder with the subjects' folders, ``calibration`` and ``models``.
        split: "s0" to "s3"; subset: "train", "val" or "test".
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl. Not needed for a set rendered with the stand-in hand.

    Raises:
        DataError: unknown split or subset; a folder that is missing, empty or not in this layout; no calibration; a
            recorded set without MANO's files; an empty subset.
    """

    def __init__(self, root: str | Path, split: str = "s0", subset: str = "train", mano: str | Path | None = None):
        check_split(split, subset)
        self.root, self.split, self.subset = Path(root), split, subset
        self.record = _synthetic_record(self.root)
        names = {int(c): n for c, n in self.record.get("object_names", {}).items()}
        self.objects = ObjectModels(self.root, names)
        self.sequences = _find_sequences(self.root)
        if not (self.root / "calibration").is_dir():
            raise DataError(f"{self.root / 'calibration'}: is missing; put the set's calibration folder there")
        self.layers = {side: ManoLayer(self._hand_model(side, mano)) for side in ("right", "left")}
        self._index_frames()
        self.broken: dict[str, str] = {}  # path of each file that could not be read: why
        self._intrinsics, self._betas = cache(self._read_intrinsics), cache(self._read_betas)
        self._extrinsics, self._contact = cache(self._read_extrinsics), cache(self._read_contact)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[SequenceInfo, int, int]:
        """The sequence, the camera (index into SERIALS) and the frame number of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} frames")
        run = int(np.searchsorted(self._ends, index, side="right"))
        sequence, camera = self._runs[run]
        return self.sequences[sequence], camera, index - int(self._ends[run - 1] if run else 0)

    def __getitem__(self, index: int) -> Frame:
        """Labels of one sample; its pictures are read by the frame's methods. Raises BrokenFrame."""
        sequence, camera, number = self.locate(int(index))
        path = sequence.folder / SERIALS[camera] / labels_name(number)
        labels = _load_npz(path, ("pose_y", "pose_m", "joint_3d", "joint_2d"))
        pose_m, joints, joints_2d = (labels[k][0].astype(np.float32) for k in ("pose_m", "joint_3d", "joint_2d"))
        poses = labels["pose_y"].astype(np.float32)
        grasped = poses[sequence.grasp]
        hand_valid = bool(pose_m.any() and not (joints == -1).all() and np.isfinite(joints).all())
        object_valid = bool(grasped.any() and np.isfinite(grasped).all())
        if not hand_valid:
            pose_m, joints, joints_2d = (
                np.zeros(51, np.float32),
                np.zeros((21, 3), np.float32),
                np.zeros((21, 2), np.float32),
            )
        if not object_valid:
            grasped = np.eye(3, 4, dtype=np.float32)
        pose = self.layers[sequence.side].pca_to_pose(torch.from_numpy(pose_m[3:48])).numpy()
        return Frame(
            index=int(index),
            sequence=sequence,
            camera=camera,
            number=number,
            intrinsics=self._intrinsics(SERIALS[camera]),
            betas=self._betas(sequence.mano_calib),
            joints=joints,
            joints_2d=joints_2d,
            pose=np.concatenate([pose_m[:3], pose]),
            translation=pose_m[48:],
            hand_valid=hand_valid,
            object_rotation=grasped[:, :3].copy(),
            object_translation=grasped[:, 3].copy(),
            object_valid=object_valid,
            object_poses=poses,
        )

    def readable(self, index: int) -> tuple[Frame, np.ndarray]:
        """A frame and its picture; where one cannot be read, the next that can (cyclically), the same for everybody.

        Every broken file is counted in :attr:`broken` and named once in a warning.

        Raises:
            DataError: if no frame at all can be read.
        """
        for step in range(len(self)):
            try:
                frame = self[(index + step) % len(self)]
                return frame, frame.image()
            except BrokenFrame as error:
                self.note_broken(error)
        raise DataError(
            f"{self.root}: not one of {len(self)} frames of {self.split} {self.subset} can be read; copy it anew"
        )

    def note_broken(self, error: BrokenFrame) -> None:
        """Counts a broken file, and warns of it the first time."""
        path, _, why = str(error).partition(": ")
        if path not in self.broken:
            self.broken[path] = why
            log.warning("skipped %s", error)

    def report(self) -> str:
        """One line on what was skipped; empty if nothing was."""
        if not self.broken:
            return ""
        return f"{len(self.broken)} broken file(s) skipped in {self.root}, the first: {next(iter(self.broken))}"

    def intrinsics(self, camera: int) -> np.ndarray:
        """float32 [3, 3], px: K of a camera (index into SERIALS)."""
        return self._intrinsics(SERIALS[camera])

    def extrinsics(self, sequence: SequenceInfo, camera: int) -> np.ndarray:
        """float64 [3, 4], m: takes points of the camera's frame to the world frame, that of pose.npz."""
        return self._extrinsics(sequence.extrinsics)[SERIALS[camera]]

    def contact(self, frame: Frame) -> tuple[np.ndarray, np.ndarray] | None:
        """Exact contacts (hand bool [778], points of points.xyz bool [N]) where the set holds them, else None."""
        known = self._contact(frame.sequence.folder)
        return None if known is None else (known["hand"][frame.number], known["object"][frame.number])

    def _hand_model(self, side: str, mano: str | Path | None) -> HandModel:
        if self.record.get("hand") == "stand-in":
            if self.record.get("hand_digest") != hand_digest(stand_in_hand("right")):
                raise DataError(f"{self.root}: was rendered with another version of the stand-in hand; render it anew")
            return stand_in_hand(side)
        if mano is None:
            raise DataError(
                f"{self.root}: its hands are MANO's, whose files cannot be shipped; "
                "get them from mano.is.tue.mpg.de and name their folder (data.mano=FOLDER)"
            )
        from amt.hand.mano_file import load_mano

        return load_mano(Path(mano) / f"MANO_{side.upper()}.pkl", side)

    def _index_frames(self) -> None:
        runs, lengths = [], []
        self._per_subject = Counter(info.subject for info in self.sequences)
        for position, info in enumerate(self.sequences):
            for camera, serial in enumerate(SERIALS):
                grasped = self._grasped(info)
                if serial in info.serials and in_subset(
                    self.split, self.subset, info.subject, camera, info.number, grasped
                ):
                    runs.append((position, camera))
                    lengths.append(info.num_frames)
        if not sum(lengths):
            raise DataError(
                f"{self.root}: {self.split} {self.subset} holds no frame of its {len(self.sequences)} sequences; "
                "choose another split, or a set with more subjects and sequences"
            )
        self._runs, self._ends = runs, np.cumsum(lengths)

    def _grasped(self, info: SequenceInfo) -> int:
        """Index into GRASPED_CLASSES of the object in the hand; -1 for one that is never grasped."""
        all_objects = len(self.record.get("object_names", CLASS_NAMES)) == len(CLASS_NAMES)
        if self._per_subject[info.subject] == FULL_SEQUENCES and all_objects:
            return info.number // 5
        return GRASPED_CLASSES.index(info.class_id) if info.class_id in GRASPED_CLASSES else -1

    def _read_intrinsics(self, serial: str) -> np.ndarray:
        path = self.root / "calibration" / "intrinsics" / f"{serial}_{FRAME_WIDTH}x{FRAME_HEIGHT}.yml"
        lens = _yaml(path).get("color")
        try:
            fx, fy, cx, cy = (float(lens[k]) for k in ("fx", "fy", "ppx", "ppy"))
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(f"{path}: has no color fx, fy, ppx, ppy; put the set's calibration back") from error
        if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
            raise DataError(
                f"{path}: focal lengths must be positive, got fx {fx}, fy {fy}; put the set's calibration back"
            )
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)

    def _read_betas(self, calibration: str) -> np.ndarray:
        path = self.root / "calibration" / f"mano_{calibration}" / "mano.yml"
        betas = np.array(_yaml(path).get("betas", ()), np.float32)
        if betas.shape != (10,):
            raise DataError(f"{path}: has no ten betas; put the set's calibration back")
        return betas

    def _read_extrinsics(self, name: str) -> dict[str, np.ndarray]:
        path = self.root / "calibration" / f"extrinsics_{name}" / "extrinsics.yml"
        placed = _yaml(path).get("extrinsics", {})
        if not all(len(placed.get(s, ())) == 12 for s in SERIALS):
            raise DataError(
                f"{path}: lacks twelve numbers for each of {len(SERIALS)} cameras; put the calibration back"
            )
        return {s: np.array(placed[s], np.float64).reshape(3, 4) for s in SERIALS}

    def _read_contact(self, folder: Path) -> dict[str, np.ndarray] | None:
        path = folder / "contact.npz"
        return _load_npz(path, ("hand", "object")) if path.is_file() else None


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], RGB. Raises BrokenFrame for a file that is missing, cut short or not a picture."""
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenFrame(f"{path}: {error.strerror or error}; copy it anew") from error
    # A cut JPEG would be filled with grey by the decoder: the end marker tells.
    if path.suffix.lower() in (".jpg", ".jpeg") and b"\xff\xd9" not in data[-64:]:
        raise BrokenFrame(f"{path}: is cut short ({len(data)} bytes); copy it anew")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise BrokenFrame(f"{path}: is not a picture; copy it anew")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _load_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except FileNotFoundError as error:
        raise BrokenFrame(f"{path}: is missing; copy it anew") from error
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BrokenFrame(f"{path}: is cut short or lacks a field ({error}); copy it anew") from error


def _synthetic_record(root: Path) -> dict:
    note = root / SYNTHETIC_RECORD
    if not note.is_file():
        return {}
    try:
        return json.loads(note.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{note}: is not readable as JSON ({error}); render the set anew") from error


def _find_sequences(root: Path) -> list[SequenceInfo]:
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; name the data set's, or render one with python -m amt.data.synthetic {root}"
        )
    found = []
    for subject, name in enumerate(SUBJECTS):
        folder = root / name
        if folder.is_dir():
            names = sorted(
                p.name for p in folder.iterdir() if not p.name.startswith(".") and (p / "meta.yml").is_file()
            )
            found += [_read_meta(folder / n, subject, number) for number, n in enumerate(names)]
    if not found:
        state = "holds no sequence of DexYCB's layout" if any(root.iterdir()) else "is empty"
        raise DataError(
            f"{root}: {state} (expected {SUBJECTS[0]}/<date_time>/meta.yml); "
            f"name the data set's folder, or render one with python -m amt.data.synthetic FOLDER"
        )
    return found


def _read_meta(folder: Path, subject: int, number: int) -> SequenceInfo:
    meta = _yaml(folder / "meta.yml")
    try:
        return SequenceInfo(
            folder=folder,
            subject=subject,
            number=number,
            num_frames=int(meta["num_frames"]),
            serials=tuple(str(s) for s in meta["serials"]),
            class_ids=tuple(int(c) for c in meta["ycb_ids"]),
            grasp=int(meta["ycb_grasp_ind"]),
            side=str(meta["mano_sides"][0]),
            extrinsics=str(meta["extrinsics"]),
            mano_calib=str(meta["mano_calib"][0]),
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{folder / 'meta.yml'}: lacks or garbles a field ({error!r}); copy it anew") from error


def _yaml(path: Path) -> dict:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(), loader)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; put the set's file back") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is not YAML ({type(error).__name__}); copy it anew") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is empty or no mapping; copy it anew")
    return content
