"""Writes a set in DexYCB's layout. A sequence appears under its name only when it is whole, so that any run can continue."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from amt.data.files import read_file
from amt.data.layout import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    SERIALS,
    SUBJECTS,
    SYNTHETIC_RECORD,
    DataError,
    color_name,
    depth_name,
    labels_name,
)
from amt.data.object_card import CARD
from amt.data.processes import end_with_parent
from amt.data.set_folder import CONTACT
from amt.data.synthetic import appearance, scene
from amt.data.synthetic.config import LOCK, SequenceSpec, SetConfig, check_folder, sequence_folder
from amt.data.synthetic.grasp_types import TYPES
from amt.data.synthetic.lift import phases
from amt.data.synthetic.objects import Shape, load_shapes
from amt.data.synthetic.sequence import Sequence, model_look, model_points
from amt.data.synthetic.server import start_server
from amt.hand.mano import HandModel
from amt.hand.rotations import matrix_to_axis_angle
from amt.hand.skeleton import SHIPPED_HAND

FORMAT = 9  # counts changes of what a (seed, subject, sequence) looks like
MASTER = SERIALS[2]  # its camera frame is the world frame
GRASP_RECORD = (
    "grasp.json"  # beside meta.yml, which stays DexYCB's: type of the grasp, whether it met every demand, phases
)


def write_set(out: str | os.PathLike, config: SetConfig, workers: int = 2, progress: bool = True) -> Path:
    """Renders what is missing of the set in folder ``out`` and returns it.

    Args:
        workers: processes that render; 1 renders in this one.
        progress: show a bar with the time left.

    Raises:
        DataError: the folder holds something else, or a set with other parameters: it is left as it was. Or it cannot be
            written, or a mesh cannot be used.
    """
    out = Path(out)
    if workers < 1:
        raise DataError(f"workers must be at least 1; got {workers}")
    shapes = load_shapes(config.objects)
    record = _record(config, shapes)
    _check(out, config, record)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _rendered_by_one(out):
            if not _check(out, config, record):  # another process may have taken the folder in the meantime
                _write_text(out / SYNTHETIC_RECORD, json.dumps(record | {"command": config.words()}, indent=1) + "\n")
            for subject in range(config.subjects):
                (out / SUBJECTS[subject]).mkdir(exist_ok=True)
            _write_calibration(out, config)
            tasks = [spec for spec in config.specs() if not _is_whole(sequence_folder(out, spec), spec)]
            _run(out, config, shapes, tasks, workers, progress)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}); check free space and permissions, then give the same "
            "command again: whole sequences stay"
        ) from error
    return out


@contextmanager
def _rendered_by_one(out: Path) -> Iterator[None]:
    """While this context is open, no other process renders into the folder; unfinished sequences have one name."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(open(out / LOCK, "a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{out}: another process renders this set; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks, or a whole set that may only be read
        yield


def count_types(out: Path, config: SetConfig) -> dict[str, int]:
    """How many sequences of a rendered set hold their object by each type of grasp."""
    records = (sequence_folder(out, spec) / GRASP_RECORD for spec in config.specs())
    found = [json.loads(path.read_text())["type"] for path in records if path.is_file()]
    return {name: found.count(name) for name in TYPES}


def _record(config: SetConfig, shapes: dict[int, Shape]) -> dict:
    """What tells this set from another."""
    record = {
        "format": FORMAT,
        "hand": SHIPPED_HAND if config.mano is None else "mano",
        "hand_digest": config.hand("right").digest,
        "object_digest": _object_digest(shapes),
        "object_names": {str(c): s.name for c, s in shapes.items()},
        "pictures_digest": _pictures_digest(config),
        **{k: v for k, v in asdict(config).items() if k not in ("objects", "mano", "backgrounds", "camera")},
        **{f"camera.{k}": v for k, v in asdict(config.camera).items()},
    }
    return json.loads(json.dumps(record))  # tuples become lists


def _check(out: Path, config: SetConfig, record: dict) -> bool:
    """Whether the folder is this set's already; raises DataError if it is something else's."""
    note = out / SYNTHETIC_RECORD
    if note.is_file():
        try:
            found = json.loads(note.read_text())
        except json.JSONDecodeError as error:
            raise DataError(
                f"{note}: is not readable as JSON ({error}); delete the folder {out} or name another"
            ) from error
        different = [k for k in record if found.get(k) != record[k]]
        if different:
            what = ", ".join(f"{k} {found.get(k)!r} (asked for: {record[k]!r})" for k in different)
            raise DataError(f"{out}: holds a set with {what}; name another folder, or delete this one to render anew")
        return True
    check_folder(out, config)
    return False


def _object_digest(shapes: dict[int, Shape]) -> str:
    digest = hashlib.sha256()
    for shape in shapes.values():
        for array in shape.mesh():
            digest.update(np.ascontiguousarray(array).tobytes())
        if shape.card is not None:
            digest.update(repr(shape.card.content()).encode())
    return digest.hexdigest()[:16]


def _pictures_digest(config: SetConfig) -> str:
    """Of the files behind and upon the table; their folder may move."""
    digest = hashlib.sha256()
    for paths in config.pictures():
        for path in paths:
            digest.update(path.name.encode() + hashlib.sha256(read_file(path)).digest())
    return digest.hexdigest()[:16]


def _write_models(out: Path, shapes: dict[int, Shape]) -> None:
    for shape in shapes.values():
        folder = out / "models" / shape.name
        if (folder / "points.xyz").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if shape.card is not None:
            _put_yaml(folder / CARD, shape.card.content())
        vertices, faces = shape.mesh()
        colours = appearance.to_srgb(appearance.paint(shape.class_id, vertices, shape.extent)) / 255
        lines = [
            f"v {x:.6f} {y:.6f} {z:.6f} {r:.3f} {g:.3f} {b:.3f}"
            for (x, y, z), (r, g, b) in zip(vertices, colours, strict=True)
        ]
        lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
        _write_text(folder / "textured_simple.obj", "\n".join(lines) + "\n")
        rows = zip(model_points(shape), model_look(shape), strict=True)  # normals and colours are AMT's own columns
        points = "\n".join(" ".join([*(f"{x:.6f}" for x in at), *(f"{x:.4f}" for x in look)]) for at, look in rows)
        _write_text(folder / "points.xyz", points + "\n")


def _write_calibration(out: Path, config: SetConfig) -> None:
    """Intrinsics a camera; extrinsics and betas a subject. Floats are written so that they read back exactly."""
    folder = out / "calibration"
    for spec in config.specs():
        if spec.scene is None and spec.sequence == 0:
            _calibrate(out, config, spec)
    for serial, camera in zip(SERIALS, scene.rig(config.seed, 0, config.camera), strict=True):
        k = camera.intrinsics
        lens = {"fx": float(k[0, 0]), "fy": float(k[1, 1]), "ppx": float(k[0, 2]), "ppy": float(k[1, 2])}
        if camera.distortion:
            lens["coeffs"] = list(camera.distortion)  # as librealsense calls them
        _put_yaml(folder / "intrinsics" / f"{serial}_{FRAME_WIDTH}x{FRAME_HEIGHT}.yml", {"color": lens, "depth": lens})


def _calibrate(out: Path, config: SetConfig, spec: SequenceSpec) -> None:
    """Extrinsics and betas of a subject, or of an independent scene."""
    folder, cameras = out / "calibration", scene.rig(spec.seed, spec.person, config.camera)
    world = _to_world(cameras)
    placed = {s: _rows(_compose(world, _inverse(_pose(c)))) for s, c in zip(SERIALS, cameras, strict=True)}
    content = {"master": MASTER, "extrinsics": {**placed, "apriltag": _rows(world)}}
    _put_yaml(folder / f"extrinsics_{_extrinsics_name(spec)}" / "extrinsics.yml", content)
    betas = [float(b) for b in scene.person(spec.seed, spec.person).betas.astype(np.float32)]
    for side in ("left", "right"):
        _put_yaml(folder / f"mano_{_mano_name(spec, side)}" / "mano.yml", {"betas": betas})


def _put_yaml(path: Path, content: dict) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_text(path, _yaml(content))


def _yaml(content: dict) -> str:
    import yaml

    # libyaml's writer is ten times as fast; a scene has four such files
    return yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def _run(out: Path, config: SetConfig, shapes: dict[int, Shape], tasks: list, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    done = config.num_pictures - sum(task.num_pictures for task in tasks)
    bar = tqdm(
        total=config.num_pictures, initial=done, unit="frame", desc="rendering", disable=not progress or not tasks
    )
    with bar:
        if workers == 1 or len(tasks) < 2:
            _write_models(out, shapes)
            for task in tasks:
                _write_sequence(out, config, task)
                bar.update(task.num_pictures)
            return
        with ProcessPoolExecutor(min(workers, len(tasks)), start_server(), _start_worker) as pool:
            running = {pool.submit(_write_sequence, out, config, task): task for task in tasks}
            try:
                _write_models(out, shapes)  # the first sequences take longer
                for future in as_completed(running):
                    future.result()
                    bar.update(running[future].num_pictures)
            except BaseException:
                # Unfinished sequences lie in temporary folders, so nothing is lost by ending their workers at once; to
                # shut the pool down without waiting would leave them, and the program would hang at its exit.
                for worker in list((pool._processes or {}).values()):
                    worker.terminate()
                raise


def serials_of(spec: SequenceSpec) -> tuple[str, ...]:
    """The cameras of a sequence: an independent scene has one."""
    return SERIALS if spec.scene is None else (SERIALS[scene.scene_camera(spec.seed, spec.scene)],)


def _is_whole(folder: Path, spec: SequenceSpec) -> bool:
    """Whether every file of a sequence is there and none is empty, as a machine that loses power leaves them."""
    frames = [name(frame) for frame in range(spec.frames) for name in (color_name, depth_name, labels_name)]
    wanted = {folder: ["meta.yml", "pose.npz", CONTACT, GRASP_RECORD]}
    wanted |= {folder / serial: frames for serial in serials_of(spec)}
    try:
        for place, names in wanted.items():
            with os.scandir(place) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries}
            if not all(sizes.get(name) for name in names):
                return False
    except OSError:
        return False
    return True


def _start_worker() -> None:
    import cv2

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent answers it
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@cache
def _worker_state(config: SetConfig) -> tuple[dict[int, Shape], dict[str, HandModel]]:
    return load_shapes(config.objects), {side: config.hand(side) for side in ("left", "right")}


def _write_sequence(out: Path, config: SetConfig, spec: SequenceSpec) -> None:
    """Renders one sequence into a hidden folder, which gets its name when all is there."""
    shapes, hands = _worker_state(config)
    side = scene.sequence_side(spec.seed, spec.subject, spec.sequence)
    rig, serials = scene.rig(spec.seed, spec.person, config.camera), serials_of(spec)
    if spec.scene is not None:
        _calibrate(out, config, spec)
    numbers = tuple(SERIALS.index(serial) for serial in serials)
    cameras, pictures = [rig[number] for number in numbers], config.pictures()
    sequence = Sequence(spec, shapes, hands[side], cameras, numbers, config.camera, *pictures)
    final = sequence_folder(out, spec)
    folder = final.with_name(f".partial-{final.name}")
    shutil.rmtree(folder, ignore_errors=True)
    for serial in serials:
        (folder / serial).mkdir(parents=True)
    _write_meta(folder, sequence, side, serials, _to_world(rig))
    labels = [_labels(sequence, camera) for camera in sequence.cameras]
    for index, frame, picture, seen in sequence.render():
        found = {k: v[frame] for k, v in labels[index].items()}
        found |= {"joint_visible": seen.joints[None], "vertex_visible": seen.vertices[None]}
        _write_frame(folder / serials[index], frame, picture, found)
    if final.exists():  # it lacks files
        shutil.rmtree(final)
    os.replace(folder, final)


def _write_meta(folder: Path, sequence: Sequence, side: str, serials: tuple[str, ...], world: np.ndarray) -> None:

    spec = sequence.spec
    meta = {
        "serials": list(serials),
        "num_frames": spec.frames,
        "extrinsics": _extrinsics_name(spec),
        "ycb_ids": [int(c) for c in sequence.class_ids],
        "ycb_grasp_ind": sequence.held,
        "mano_sides": [side],
        "mano_calib": [_mano_name(spec, side)],
    }
    _write_text(folder / "meta.yml", _yaml(meta))
    grasp = {"type": sequence.grasp.kind, "good": sequence.grasp.good}
    if spec.lift:
        grasp["first_frame"] = phases(spec.frames)
    _write_text(folder / GRASP_RECORD, json.dumps(grasp) + "\n")
    poses = _compose(world, sequence.object_poses)
    np.savez_compressed(folder / "pose.npz", pose_y=_quaternion_poses(poses), pose_m=_hand_in(sequence, world)[:, None])
    np.savez_compressed(
        folder / CONTACT,
        hand=sequence.hand_contact,
        object=sequence.object_contact,
        hand_distance=sequence.hand_distance,
        object_distance=sequence.object_distance,
    )


def _labels(sequence: Sequence, camera) -> dict[str, np.ndarray]:
    """pose_y [F, O, 3, 4], pose_m [F, 1, 51], joint_3d [F, 1, 21, 3], joint_2d [F, 1, 21, 2] of one camera, float32."""
    pose_m = _hand_in(sequence, _pose(camera))
    layer = sequence.hand.layer
    betas = torch.from_numpy(sequence.person.betas).float()[None].expand(len(pose_m), -1)
    stored = torch.from_numpy(pose_m)
    with torch.no_grad():
        pose = torch.cat([stored[:, :3], layer.pca_to_pose(stored[:, 3:48])], 1)
        joints = layer(pose, betas, stored[:, 48:]).joints
    in_camera = replace(camera, rotation=np.eye(3), translation=np.zeros(3))
    pixels = np.stack([in_camera.pixels(points) for points in joints.double().numpy()])
    return {
        "pose_y": _compose(_pose(camera), sequence.object_poses).astype(np.float32),
        "pose_m": pose_m[:, None],
        "joint_3d": joints.numpy()[:, None],
        "joint_2d": pixels.astype(np.float32)[:, None],
    }


def _write_frame(folder: Path, frame: int, picture, labels: dict[str, np.ndarray]) -> None:
    import cv2

    colour = cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR)
    for name, image, flags in (
        (color_name(frame), colour, [cv2.IMWRITE_JPEG_QUALITY, picture.jpeg_quality]),
        (depth_name(frame), picture.depth, [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    ):
        if not cv2.imwrite(str(folder / name), image, flags):
            raise OSError(f"{folder / name}: could not be written; is the disk full?")
    np.savez_compressed(folder / labels_name(frame), seg=picture.segment, **labels)


def _hand_in(sequence: Sequence, pose: np.ndarray) -> np.ndarray:
    """pose_m float32 [F, 51] of the hand in the frame that ``pose`` [3, 4] leads to from the table's."""
    wrist = matrix_to_axis_angle(torch.from_numpy(pose[:, :3] @ sequence.hand_rotations)).numpy()
    root = sequence.hand.root
    translation = (sequence.hand_translation + root) @ pose[:, :3].T + pose[:, 3] - root
    coefficients = sequence.hand.layer.pose_to_pca(torch.from_numpy(sequence.hand_pose[:, 3:]).float()).numpy()
    return np.concatenate([wrist, coefficients, translation], 1).astype(np.float32)


def _quaternion_poses(poses: np.ndarray) -> np.ndarray:
    """float32 [..., 7], xyzw and translation, of [..., 3, 4]."""
    from scipy.spatial.transform import Rotation

    quaternions = Rotation.from_matrix(poses[..., :3].reshape(-1, 3, 3)).as_quat().reshape(*poses.shape[:-2], 4)
    return np.concatenate([quaternions, poses[..., 3]], -1).astype(np.float32)


def _pose(camera) -> np.ndarray:
    return np.concatenate([camera.rotation, camera.translation[:, None]], 1)


def _to_world(cameras) -> np.ndarray:
    """float64 [3, 4]: table to world, which is the master camera's frame."""
    return _pose(cameras[SERIALS.index(MASTER)])


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """[..., 3, 4]: first ``inner``, then ``outer`` [3, 4]."""
    moved = outer[:, :3] @ inner
    moved[..., 3] += outer[:, 3]
    return moved


def _inverse(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([pose[:, :3].T, -pose[:, :3].T @ pose[:, 3:]], 1)


def _rows(pose: np.ndarray) -> list[float]:
    return [float(x) for x in pose.ravel()]


def _extrinsics_name(spec: SequenceSpec) -> str:
    return f"{SUBJECTS[spec.subject][:8]}_085500" if spec.scene is None else f"scene_{spec.scene:06d}"


def _mano_name(spec: SequenceSpec, side: str) -> str:
    return f"{SUBJECTS[spec.subject] if spec.scene is None else f'scene_{spec.scene:06d}'}_{side}"


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text)
    os.replace(partial, path)
