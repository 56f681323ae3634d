"""``evaluate.write`` on HO-3D: pred.json and pred.zip of its evaluation set, which its challenge takes; frames in their order.

Of that set's hands the wrist alone is labelled, so the crops are those of the boxes that the set tells. Joints and vertices are
written in metres in OpenGL's camera frame, joints in MANO's order (github.com/shreyashampali/ho3d). A frame that cannot be read
gets zeros, and the reader counts it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from amt.data.config import CropConfig
from amt.data.crops import cut, square_around
from amt.data.errors import BrokenFrame
from amt.data.ho3d import HO3D, Ho3dFrame, hand_corners, to_opengl
from amt.evaluate.results import hand_mesh
from amt.files import write_text
from amt.hand.batch import Inputs
from amt.hand.camera import crop_camera
from amt.hand.skeleton import NUM_JOINTS
from amt.model import AMT

VERTICES = 778  # MANO's, which the challenge compares
ARCHIVE = "pred.zip"


@torch.no_grad()
def predict(
    model: AMT, reader: HO3D, crop: CropConfig, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Joints [21, 3] and vertices [V, 3] of every frame, as pred.json holds them; the model is put into evaluation mode."""
    model.eval()
    points, looks = (
        torch.from_numpy(table(crop.num_points)) for table in (reader.objects.class_points, reader.objects.class_looks)
    )
    for start in range(0, len(reader), batch_size):
        rows: dict[int, Inputs] = {}
        indices = range(start, min(start + batch_size, len(reader)))
        for index in indices:
            try:
                rows[index] = _inputs(reader[index], crop, points, looks)
            except BrokenFrame as error:
                reader.note_broken(error)
        found = iter(())
        if rows:
            inputs = Inputs(*(torch.cat(parts) for parts in zip(*(vars(row).values() for row in rows.values()))))
            prediction = model(inputs.to(device))
            found = zip(prediction.joints.float().cpu().numpy(), prediction.vertices.float().cpu().numpy())
        for index in indices:
            if index in rows:
                yield to_opengl(*next(found))
            else:
                yield np.zeros((NUM_JOINTS, 3)), np.zeros((model.mano.num_vertices, 3))


def write(folder: Path, found: Iterator[tuple[np.ndarray, np.ndarray]]) -> list[Path]:
    """Writes pred.json and pred.zip, each whole or not at all."""
    joints, vertices = zip(*((hand_mesh.text(j), hand_mesh.text(v)) for j, v in found))
    text = f"[[{','.join(joints)}],[{','.join(vertices)}]]"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / hand_mesh.NAME, text)
    partial = folder / f".partial-{ARCHIVE}"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(hand_mesh.NAME, text)
    partial.replace(folder / ARCHIVE)
    return [folder / hand_mesh.NAME, folder / ARCHIVE]


def _inputs(frame: Ho3dFrame, crop: CropConfig, points: torch.Tensor, looks: torch.Tensor) -> Inputs:
    box, k = square_around(hand_corners(frame), crop.box_scale), frame.intrinsics.astype(np.float64)
    intrinsics, warp = crop_camera(k, box, crop.size)
    image, known = frame.image(), frame.sequence.class_id
    return Inputs(
        image=torch.from_numpy(np.ascontiguousarray(cut(image, warp.numpy(), crop.size).transpose(2, 0, 1)))[None],
        intrinsics=intrinsics.float()[None],
        box=torch.from_numpy(box).float()[None],
        frame_intrinsics=torch.from_numpy(k).float()[None],
        frame_size=torch.tensor([image.shape[:2]], dtype=torch.float32),
        right=torch.tensor([True]),
        object_class=torch.tensor([known]),
        object_points=points[known][None],
        object_look=looks[known][None],
    )
