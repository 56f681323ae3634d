"""A small set in DexYCB's layout with posed hands in it, for what scores against labels: no picture is ever read."""

import json

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from amt.data.layout import CLASS_NAMES, SERIALS, SUBJECTS, SYNTHETIC_RECORD
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand

FRAMES, CAMERAS, IDS = 5, SERIALS[:2], (3, 14)  # a sequence's frames; its cameras; the objects in its scene
GRASPED = 1  # place in IDS
NO_HAND = 7  # index of the frame without a labelled hand
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
BOX = "".join(f"v {x} {y} {z}\n" for x, y, z in CORNERS * (0.06, 0.1, 0.15)) + "".join(
    f"f {a} {b} {c}\n"
    for a, b, c in [
        (1, 3, 4), (1, 4, 2), (5, 6, 8), (5, 8, 7), (1, 2, 6), (1, 6, 5),
        (3, 7, 8), (3, 8, 4), (1, 5, 7), (1, 7, 3), (2, 4, 8), (2, 8, 6),
    ]
)  # fmt: skip


def write_set(root):
    """s1 test: two people, a sequence of five frames each, the second one with the left hand, two cameras: 20 frames."""
    rng = np.random.default_rng(0)
    digest = shipped_hand("right").digest
    _text(root / SYNTHETIC_RECORD, json.dumps({"hand": "amt", "hand_digest": digest}))
    for serial in SERIALS:
        lens = {"color": {"fx": 600.0, "fy": 610.0, "ppx": 320.0, "ppy": 240.0}}
        _text(root / "calibration" / "intrinsics" / f"{serial}_640x480.yml", json.dumps(lens))
    _text(
        root / "calibration" / "extrinsics_e" / "extrinsics.yml",
        json.dumps({"extrinsics": dict.fromkeys(SERIALS, [0.0] * 12)}),
    )
    _text(root / "calibration" / "mano_m" / "mano.yml", json.dumps({"betas": [0.0] * 10}))
    for kind in IDS:
        _text(root / "models" / CLASS_NAMES[kind] / "textured_simple.obj", BOX)
    _text(root / "models" / CLASS_NAMES[14] / "object.yml", "symmetry: {z: 180}\n")
    for subject, side in ((7, "right"), (8, "left")):
        layer = ManoLayer(shipped_hand(side))
        folder = root / SUBJECTS[subject] / f"{SUBJECTS[subject][:8]}_120000"
        meta = {
            "serials": list(CAMERAS), "num_frames": FRAMES, "extrinsics": "e", "ycb_ids": list(IDS),
            "ycb_grasp_ind": GRASPED, "mano_sides": [side], "mano_calib": ["m"],
        }  # fmt: skip
        _text(folder / "meta.yml", json.dumps(meta))
        for serial in CAMERAS:
            for number in range(FRAMES):
                _write_frame(folder / serial, number, layer, rng)
    empty = root / SUBJECTS[7] / f"{SUBJECTS[7][:8]}_120000" / CAMERAS[1] / "labels_000002.npz"
    labels = dict(np.load(empty))
    labels |= {
        "pose_m": labels["pose_m"] * 0,
        "joint_3d": labels["joint_3d"] * 0 - 1,
        "joint_2d": labels["joint_2d"] * 0 - 1,
    }
    np.savez(empty, **labels)
    return root


def _write_frame(folder, number, layer, rng):
    folder.mkdir(parents=True, exist_ok=True)
    code = np.concatenate((rng.uniform(-1.5, 1.5, 3), rng.normal(0, 1, 45), (0, 0, 0))).astype(np.float32)
    pose = torch.from_numpy(np.concatenate((code[:3], layer.pca_to_pose(torch.from_numpy(code[3:48])).numpy())))
    code[48:] = rng.uniform((-0.1, -0.1, 0.6), (0.1, 0.1, 0.9)).astype(np.float32)
    joints = layer(pose[None], torch.zeros(1, 10), torch.from_numpy(code[48:])[None]).joints.numpy()
    places = rng.uniform((-0.1, -0.1, 0.7), (0.1, 0.1, 0.9), (2, 3))
    poses = np.concatenate((Rotation.random(2, random_state=rng).as_matrix(), places[..., None]), 2)
    np.savez(
        folder / f"labels_{number:06d}.npz", pose_y=poses.astype(np.float32), pose_m=code[None], joint_3d=joints,
        joint_2d=np.full((1, 21, 2), 200, np.float32), seg=np.zeros((480, 640), np.uint8),
    )  # fmt: skip
    depth = rng.integers(650, 950, (480, 640)).astype(np.uint16) * (rng.random((480, 640)) < 0.9)
    cv2.imwrite(str(folder / f"aligned_depth_to_color_{number:06d}.png"), depth.astype(np.uint16))


def _text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
