"""The crop cache: every frame of a subset cut out once, as memory-mapped arrays.

Pictures are uint8, labels float32 in metres: at half a metre from the camera bfloat16 could only tell 4 mm apart. The cut
is wider than what a model sees, so that turns, shifts and zooms are made from it with the right intrinsics.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from amt.data.config import CropConfig
from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame, DataError
from amt.data.set_folder import count_by_reason
from amt.hand.camera import crop_camera

FORMAT = 2  # counts changes of what a cache holds
_CHUNK = 64


def joint_box(joints_2d: np.ndarray, scale: float) -> np.ndarray:
    """float32 [3], px: centre and side of the square ``scale`` times as wide as the tight box around joints [21, 2]."""
    low, high = joints_2d.min(0), joints_2d.max(0)
    side = max(float((high - low).max()) * scale, 8.0)
    return np.array([*(low + high) / 2, side], np.float32)


def cut(image: np.ndarray, warp: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the part of an image that ``warp`` [2, 3] (image to crop pixels) maps into the crop.

    Where the crop is less than half as fine as the image, the image is averaged down first, so that nothing aliases.
    """
    import cv2

    zoom = float(np.hypot(warp[0, 0], warp[1, 0]))
    factor = int(0.75 / zoom) if zoom < 0.375 else 1
    warp = np.asarray(warp, np.float64)
    if factor > 1:
        height, width = image.shape[0] // factor, image.shape[1] // factor
        image = cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
        # Pixel centres: x_small = (x + 0.5) / factor - 0.5.
        linear = warp[:, :2] * factor
        warp = np.column_stack([linear, warp[:, 2] + warp[:, :2].sum(1) * (factor - 1) / 2])
    return cv2.warpAffine(image, warp, (size, size), flags=cv2.INTER_LINEAR)


class CropCache:
    """The arrays of one subset: ``cache[name]`` is a memory-mapped array, one row a frame that can be used.

    Frames without a hand's labels cannot be cut by protocol V's box; they are left out and counted, as are broken ones.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.info = json.loads((self.folder / "info.json").read_text())
        # Left-out frames leave the arrays' ends empty.
        used = self.info["frames"]
        self.arrays = {n: np.load(self.folder / f"{n}.npy", mmap_mode="r")[:used] for n in self.info["fields"]}
        self.class_points = np.load(self.folder / "class_points.npy")

    def __len__(self) -> int:
        return self.info["frames"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __reduce__(self):
        return CropCache, (self.folder,)  # a worker maps the files anew; pickling the arrays would copy them

    def report(self) -> str:
        """One line: how many frames are there, how many were left out and why."""
        i = self.info
        text = f"{i['split']} {i['subset']}: {i['frames']} frames"
        if i["unlabelled"]:
            text += f", {i['unlabelled']} without a hand left out"
        if i["broken"]:
            text += f", {count_by_reason(i['broken'])}"
        return text


def build_cache(reader: DexYCB, config: CropConfig, folder: str | Path, progress: bool = True) -> CropCache:
    """The cache of a reader's subset below ``folder``, made if it is not there yet.

    It appears under its name only when it is whole. Its name depends on the set, the split and all of ``config``.
    """
    final = Path(folder) / _cache_name(reader, config)
    if not (final / "info.json").is_file():
        partial = final.with_name(f".partial-{os.getpid()}-{final.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _fill(reader, config, partial, progress)
            try:
                os.replace(partial, final)
            except OSError:
                if not (final / "info.json").is_file():
                    raise  # not another process that was first
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    cache = CropCache(final)
    if not len(cache):
        raise DataError(f"{reader.root}: {cache.report()}; nothing is left to work on")
    return cache


def _cache_name(reader: DexYCB, config: CropConfig) -> str:
    key = {
        "format": FORMAT,
        "root": str(reader.root.resolve()),
        "record": reader.record,
        "frames": [[i.folder.name, i.num_frames] for i in reader.sequences],
        "crop": [config.size, config.box_scale, config.margin, config.num_points],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return f"{reader.split}-{reader.subset}-{config.size}-{digest}"


def _fill(reader: DexYCB, config: CropConfig, folder: Path, progress: bool) -> None:
    from tqdm import tqdm

    fields = config.fields()
    total = len(reader)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (total, *shape))
        for name, (shape, dtype) in fields.items()
    }
    used = unlabelled = 0
    bar = tqdm(total=total, unit="frame", desc=f"cutting {reader.split} {reader.subset}", disable=not progress)
    with bar, ThreadPoolExecutor(2) as pool:
        for start in range(0, total, _CHUNK):
            chunk = range(start, min(start + _CHUNK, total))
            rows = []
            for outcome in pool.map(lambda index: _cut_frame(reader, config, index), chunk):
                if isinstance(outcome, BrokenFrame):
                    reader.note_broken(outcome)
                elif outcome is None:
                    unlabelled += 1
                else:
                    rows.append(outcome)
            if rows:
                _add_meshes(reader, config, rows)
                for name in fields:
                    arrays[name][used : used + len(rows)] = np.stack([row[name] for row in rows])
                used += len(rows)
            bar.update(len(chunk))
    for array in arrays.values():
        array.flush()
    np.save(folder / "class_points.npy", reader.objects.class_points(config.num_points))
    info = {
        "split": reader.split,
        "subset": reader.subset,
        "frames": used,
        "unlabelled": unlabelled,
        "broken": {reason: [len(files), str(next(iter(files)))] for reason, files in reader.broken.items()},
        "fields": list(fields),
    }
    (folder / "info.json").write_text(json.dumps(info, indent=1))


def _cut_frame(reader: DexYCB, config: CropConfig, index: int) -> dict | BrokenFrame | None:
    """One row without its meshes; None for a frame without a hand's labels."""
    try:
        frame = reader[index]
        if not frame.hand_valid:
            return None
        image = frame.image()
    except BrokenFrame as error:
        return error
    box = joint_box(frame.joints_2d, config.box_scale)
    wide = box * np.array([1, 1, config.margin], np.float32)
    intrinsics, warp = crop_camera(frame.intrinsics.astype(np.float64), wide.astype(np.float64), config.cut_size)
    return {
        "frame": frame,
        "index": frame.index,
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
    }


def _add_meshes(reader: DexYCB, config: CropConfig, rows: list[dict]) -> None:
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
