"""How a frame is cut: its box, the picture inside it, and the labels that go with it as one row of the crop cache.

Pictures are uint8, labels float32 in metres: at half a metre from the camera bfloat16 could only tell 4 mm apart. The cut
is wider than what a model sees, so that rotations, shifts and zooms are made from it with the right intrinsics.
"""

from __future__ import annotations

import numpy as np
import torch

from amt.data.config import CropConfig
from amt.data.errors import BrokenFrame
from amt.data.layout import HAND_SEGMENT
from amt.data.reader import Reader
from amt.data.set_folder import Frame
from amt.data.visibility import joint_visibility
from amt.hand.camera import crop_camera

NO_HAND = "without a hand's labels"
OUTSIDE = "whose labels put the hand outside the picture"


def joint_box(joints_2d: np.ndarray, scale: float) -> np.ndarray:
    """float32 [3], px: centre and side of the square ``scale`` times as wide as the tight box around joints [21, 2]."""
    low, high = joints_2d.min(0), joints_2d.max(0)
    side = max(float((high - low).max()) * scale, 8.0)
    return np.array([*(low + high) / 2, side], np.float32)


def square_around(pixels: np.ndarray, scale: float = CropConfig.box_scale) -> np.ndarray:
    """float64 [3]: the square (cx, cy, side; px) around joints [21, 2], by the rule that training cuts its crops by."""
    return joint_box(pixels, scale).astype(np.float64)


def centred_square(height: int, width: int) -> np.ndarray:
    """float64 [3]: the largest square (cx, cy, side; px) in the middle of an image."""
    return np.array(((width - 1) / 2, (height - 1) / 2, min(height, width)), np.float64)


def cut(image: np.ndarray, warp: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, ...]: the part of an image that ``warp`` [2, 3] (image to crop pixels) maps into the crop.

    Where the crop is less than half as fine as the image, the image is averaged down first, so that nothing aliases.
    """
    import cv2

    warp, factor = np.asarray(warp, np.float64), _factor(warp)
    if factor > 1:
        height, width = image.shape[0] // factor, image.shape[1] // factor
        image = cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
        # Pixel centres: x_small = (x + 0.5) / factor - 0.5.
        linear = warp[:, :2] * factor
        warp = np.column_stack([linear, warp[:, 2] + warp[:, :2].sum(1) * (factor - 1) / 2])
    return cv2.warpAffine(image, warp, (size, size), flags=cv2.INTER_LINEAR)


def rows_needed(warp: np.ndarray, size: int) -> int:
    """How many upper rows of an image :func:`cut` looks at, for a warp that does not rotate. May exceed the image's height."""
    lowest = (size - 1 - warp[1, 2]) / warp[1, 1]
    return int(np.clip(np.ceil(lowest) + 2 * _factor(warp), 1, 1 << 20))


def _factor(warp: np.ndarray) -> int:
    """How many pixels of the image are averaged to one, along each axis, before they are warped."""
    zoom = float(np.hypot(warp[0, 0], warp[1, 0]))
    return int(0.75 / zoom) if zoom < 0.375 else 1


def cut_alpha(frame: Frame, warp: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size]: 255 on the hand and the object in it, 0 elsewhere; 255 everywhere where no segmentation is known."""
    try:
        segment = frame.segment()
    except BrokenFrame:
        return np.full((size, size), 255, np.uint8)
    kept = segment == HAND_SEGMENT
    if frame.sequence.class_id:  # 0, no object, is the background's number
        kept |= segment == frame.sequence.class_id
    return cut(kept.astype(np.uint8) * 255, warp, size)


def cut_frame(reader: Reader, config: CropConfig, index: int) -> dict | BrokenFrame | str:
    """One row without its meshes; why it is left out where its labels say so; the error where it cannot be read."""
    try:
        frame = reader[index]
        if frame.hand_fault:
            return BrokenFrame(frame.labels_path, frame.hand_fault)
        if not frame.hand_valid:
            return NO_HAND
        box = joint_box(frame.joints_2d, config.box_scale)
        wide = box * np.array([1, 1, config.cut_size / config.size], np.float32)
        intrinsics, warp = crop_camera(frame.intrinsics.astype(np.float64), wide.astype(np.float64), config.cut_size)
        image = frame.image(rows_needed(warp.numpy(), config.cut_size))
    except BrokenFrame as error:
        return error
    if not in_view(frame, image.shape[:2]):
        return OUTSIDE
    visible, visibility_valid = joint_visibility(frame)
    row = {"alpha": cut_alpha(frame, warp.numpy(), config.cut_size)} if config.alpha else {}
    return row | {
        "frame": frame,
        "index": frame.index,
        "run": (frame.sequence.subject + 1) << 40 | (frame.sequence.number + 1) << 16 | (frame.camera + 1),
        "number": frame.number,
        "image": cut(image, warp.numpy(), config.cut_size),
        "intrinsics": intrinsics.numpy(),
        "box": box,
        "frame_intrinsics": frame.intrinsics,
        "frame_size": image.shape[:2],
        "right": frame.sequence.side == "right",
        "object_class": frame.sequence.class_id,
        "joints": frame.joints,
        "pose": frame.pose,
        "betas": frame.betas,
        "translation": frame.translation,
        "object_rotation": frame.object_rotation,
        "object_translation": frame.object_translation,
        "hand_valid": frame.hand_valid,
        "object_valid": frame.object_valid,
        "contact_valid": frame.object_valid,
        "joint_visible": visible,
        "visibility_valid": visibility_valid,
        "object_symmetric": reader.objects.symmetric(frame.sequence.class_id),
    }


def in_view(frame: Frame, size: tuple[int, int]) -> bool:
    """Whether a joint of the labelled hand lies before the camera and inside the picture of ``size`` (height, width)."""
    x, y = frame.joints_2d.T
    inside = (x > -0.5) & (x < size[1] - 0.5) & (y > -0.5) & (y < size[0] - 0.5)
    return bool((inside & (frame.joints[:, 2] > 0)).any())


def add_meshes(reader: Reader, config: CropConfig, rows: list[dict]) -> None:
    """Adds vertices, by one pass of the hand layer a side, and contacts."""
    for side in ("right", "left"):
        mine = [row for row in rows if row["frame"].sequence.side == side]
        if not mine:
            continue
        pose, betas, translation = (
            torch.from_numpy(np.stack([r[k] for r in mine])) for k in ("pose", "betas", "translation")
        )
        with torch.no_grad():
            vertices = reader.layer(side)(pose, betas, translation).vertices.numpy()
        for row, mesh in zip(mine, vertices):
            row["vertices"] = mesh
    for row in rows:
        sequence = row["frame"].sequence
        row["hand_contact"], cloud_contact = reader.contacts(row["frame"], row["vertices"])
        row["object_contact"] = cloud_contact[reader.objects.choice(sequence.class_id, config.num_points)]
