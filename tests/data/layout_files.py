"""Trees in DexYCB's layout whose frames are hard links to a few small files: any size, written in no time."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from amt.data.layout import CLASS_NAMES, GRASPED_CLASSES, SERIALS, SUBJECTS, SYNTHETIC_RECORD
from amt.hand.shipped import shipped_hand

LENS = {"fx": 613.076, "fy": 611.999, "ppx": 313.028, "ppy": 245.009}
KINDS = ("near", "far", "no hand", "no object")


def kind_of(subject: int, sequence: int, camera: int, frame: int) -> str:
    """What the labels of a frame say."""
    return KINDS[(subject + sequence // 2 + camera + frame) % len(KINDS)]


def labels(kind: str) -> dict[str, np.ndarray]:
    joints = np.tile(np.float32([[0.0, 0.0, 0.7]]), (21, 1)) + np.linspace(0, 0.1, 21, dtype=np.float32)[:, None]
    pose = np.eye(3, 4, dtype=np.float32)
    pose[:, 3] = joints[0] + np.float32([0, -0.02 if kind == "near" else -0.3, 0])
    found = {
        "pose_y": pose[None],
        "pose_m": np.full((1, 51), 0.1, np.float32),
        "joint_3d": joints[None],
        "joint_2d": _seen(joints)[None],
        "seg": np.zeros((480, 640), np.uint8),
    }
    if kind == "no hand":
        found |= {
            "pose_m": found["pose_m"] * 0,
            "joint_3d": joints[None] * 0 - 1,
            "joint_2d": found["joint_2d"] * 0 - 1,
        }
    if kind == "no object":
        found["pose_y"] = pose[None] * 0
    return found


def _seen(joints: np.ndarray) -> np.ndarray:
    """float32 [21, 2], px: where the trees' camera sees joints [21, 3]."""
    pixels = joints[:, :2] / joints[:, 2:] * [LENS["fx"], LENS["fy"]] + [LENS["ppx"], LENS["ppy"]]
    return pixels.astype(np.float32)


def write_tree(root: Path, subjects: int, sequences: int, frames_of: Callable[[int], int]) -> Path:
    """Sequence q of each subject has frames_of(q) frames of 8 cameras; the hand is right in even sequences.

    The pictures are grey noise, and labels are :func:`labels` of :func:`kind_of`.
    """
    once = root / "once"
    once.mkdir()
    record = {"hand": "amt", "hand_digest": shipped_hand("right").digest}
    (root / SYNTHETIC_RECORD).write_text(json.dumps(record))
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(once / "color.jpg"), cv2.resize(noise, (640, 480)))
    cv2.imwrite(str(once / "depth.png"), np.arange(480 * 640, dtype=np.uint16).reshape(480, 640))
    for kind in KINDS:
        np.savez_compressed(once / f"{kind}.npz", **labels(kind))
    for frames in set(map(frames_of, range(sequences))):
        poses = {"pose_y": np.zeros((frames, 1, 7), np.float32), "pose_m": np.zeros((frames, 1, 51), np.float32)}
        np.savez_compressed(once / f"pose{frames}.npz", **poses)
    for serial in SERIALS:
        _put(root / "calibration" / "intrinsics" / f"{serial}_640x480.yml", {"color": LENS})
    placed = {serial: [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0] for serial in SERIALS}
    _put(root / "calibration" / "extrinsics_e" / "extrinsics.yml", {"extrinsics": placed})
    _put(root / "calibration" / "mano_m" / "mano.yml", {"betas": [0.0] * 10})
    for class_id in GRASPED_CLASSES:
        folder = root / "models" / CLASS_NAMES[class_id]
        folder.mkdir(parents=True)
        (folder / "points.xyz").write_text("0 0 0\n0.01 0 0\n0 0.01 0\n")
    for s in range(subjects):
        for q in range(sequences):
            _write_sequence(once, sequence_folder(root, s, q), s, q, frames_of(q))
    return root


def sequence_folder(root: Path, subject: int, sequence: int) -> Path:
    return root / SUBJECTS[subject] / f"{SUBJECTS[subject][:8]}_{100000 + sequence}"


def _write_sequence(once: Path, folder: Path, subject: int, sequence: int, frames: int) -> None:
    meta = {
        "serials": list(SERIALS),
        "num_frames": frames,
        "extrinsics": "e",
        "ycb_ids": [GRASPED_CLASSES[sequence // 5]],
        "ycb_grasp_ind": 0,
        "mano_sides": ["left" if sequence % 2 else "right"],
        "mano_calib": ["m"],
    }
    _put(folder / "meta.yml", meta)
    os.link(once / f"pose{frames}.npz", folder / "pose.npz")
    for camera, serial in enumerate(SERIALS):
        (folder / serial).mkdir()
        for frame in range(frames):
            os.link(once / "color.jpg", folder / serial / f"color_{frame:06d}.jpg")
            os.link(once / "depth.png", folder / serial / f"aligned_depth_to_color_{frame:06d}.png")
            kind = kind_of(subject, sequence, camera, frame)
            os.link(once / f"{kind}.npz", folder / serial / f"labels_{frame:06d}.npz")


def _put(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))  # JSON is YAML, and quicker to write
