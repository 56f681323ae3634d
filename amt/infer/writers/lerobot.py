"""``lerobot/``: a data set in LeRobot's layout v3.0, that robots' learning code opens.

Source: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. An episode is a run of consecutive frames in which one hand is
seen. All episodes lie in one film, each from its own time on. The action of a frame is the state of the next one.
"""

from __future__ import annotations

import json
import os
from typing import Any, Self

import numpy as np

from amt.files import new_folder, write_text
from amt.infer.film import open_film
from amt.infer.output import OutputError
from amt.infer.writers.entry import Entry, Setup
from amt.infer.writers.rows import Rows, is_seen, robot_row

VERSION = "v3.0"
CAMERA = "observation.images.camera"
CHUNK = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{CHUNK}.parquet"
VIDEO_PATH = "videos/{video_key}/" + f"{CHUNK}.mp4"
EPISODES_PATH = f"meta/episodes/{CHUNK}.parquet"
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
ABOUT = "meta/amt.json"  # marks the folder as written here
TASK = "follow the hand in the video"


class LeRobot:
    """The folder ``lerobot``: with ``--retarget`` the state is the robot's joint angles and its palm, else the hand's joints.

    While the run lasts, and after a kill, ``.part-lerobot-arrays/`` holds the rows as .npy files.
    """

    name = "lerobot"

    def __init__(self, setup: Setup):
        self.setup, self.final = setup, setup.out.folder / self.name
        ours = (self.final / ABOUT).is_file()
        if self.final.exists() and not ours and not setup.out.overwrite:
            raise OutputError(
                f"{self.final}: exists and was not written by amt.infer; choose another --out or add --overwrite"
            )
        self.rows = Rows(setup.out.folder / f".part-{self.name}-arrays")
        self.film = open_film(setup.out, _FILM, setup.rate, None, setup.say)
        self.frames, self.size = 0, (0, 0)

    def __enter__(self) -> Self:
        self.rows.__enter__()
        self.film.__enter__()
        return self

    def add(self, entry: Entry) -> None:
        picture = entry.picture
        self.film.add(picture.image, self.frames / self.setup.rate)
        self.size = self.size if self.frames else picture.image.shape[:2]
        for which, result in enumerate(entry.results):
            if is_seen(result):
                number = entry.numbers[which]
                self.rows.append(
                    {
                        "hand": np.int64(0 if number is None else number),
                        "place": np.int64(self.frames),
                        **{name: value for name, (value, _) in features_of(entry, which, self.setup).items()},
                    }
                )
        self.frames += 1

    def __exit__(self, kind, *error: object) -> None:
        self.film.__exit__(kind, *error)
        if len(self.rows):
            self._write()
        elif self.frames and kind is None:
            self.setup.say(f"{self.final}: not written, no hand was seen")
        if self.frames:
            (self.setup.out.folder / _FILM).unlink(missing_ok=True)
            self.setup.out.written = [p for p in self.setup.out.written if p.name != _FILM]
        self.rows.__exit__(None)

    def _write(self) -> None:
        import pyarrow.parquet as parquet

        names = [name for name in self.rows.columns if name not in ("hand", "place")]
        order, episodes = split_into_episodes(np.array(self.rows["hand"]), np.array(self.rows["place"]))
        data = {name: np.array(self.rows[name])[order] for name in names}
        data["action"] = next_of_each(data["observation.state"], episodes)
        data |= counters(episodes, self.setup.rate)
        place = np.array(self.rows["place"])[order]
        try:
            with new_folder(self.final) as folder:
                for path, table in {
                    DATA_PATH.format(chunk_index=0, file_index=0): _table(data),
                    EPISODES_PATH.format(chunk_index=0, file_index=0): _episode_table(
                        episode_rows(episodes, place, data, self.setup.rate)
                    ),
                    "meta/tasks.parquet": _tasks(),
                }.items():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    parquet.write_table(table, folder / path)
                video = folder / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=0)
                video.parent.mkdir(parents=True)
                os.link(self.setup.out.folder / _FILM, video)
                write_text(folder / "meta/info.json", json.dumps(self._info(data, episodes), indent=4))
                write_text(folder / "meta/stats.json", json.dumps(stats(data), indent=4))
                write_text(folder / ABOUT, json.dumps(self.setup.about, indent=4))
        except OSError as error:
            raise OutputError(f"{self.final}: cannot be written ({error.strerror}); free space on the disk") from None
        self.setup.out.written.append(self.final)

    def _info(self, data: dict[str, np.ndarray], episodes: list[range]) -> dict[str, Any]:
        height, width = (side // 2 * 2 for side in self.size)
        rate = self.setup.rate
        return {
            "codebase_version": VERSION,
            "robot_type": None if self.setup.robot is None else self.setup.robot.name,
            "total_episodes": len(episodes),
            "total_frames": sum(map(len, episodes)),
            "total_tasks": 1,
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if rate == int(rate) else rate,
            "splits": {"train": f"0:{len(episodes)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": {
                CAMERA: {
                    "dtype": "video",
                    "shape": [height, width, 3],
                    "names": ["height", "width", "channels"],
                    "info": {
                        "video.height": height,
                        "video.width": width,
                        "video.codec": "h264",
                        "video.pix_fmt": "yuv420p",
                        "video.is_depth_map": False,
                        "video.fps": rate,
                        "video.channels": 3,
                        "has_audio": False,
                    },
                },
                **{
                    name: {
                        "dtype": str(values.dtype),
                        "shape": list(values.shape[1:]) or [1],
                        "names": self._names(name),
                    }
                    for name, values in data.items()
                },
            },
        }

    def _names(self, feature: str) -> list[str] | None:
        return state_names(self.setup) if feature in ("observation.state", "action") else None


_FILM = "lerobot-film.mp4"


def features_of(entry: Entry, which: int, setup: Setup) -> dict[str, tuple[np.ndarray, str]]:
    """A row's features with their units; every value is finite, as LeRobot's statistics need it.

    ``observation.object`` is [position (m), quaternion x, y, z, w] in the camera's frame, zeros where there is no object.
    """
    from scipy.spatial.transform import Rotation

    result, picture = entry.results[which], entry.picture
    joints = np.asarray(result.joints, np.float32)
    state = joints.reshape(-1)
    if setup.robot is not None:
        row = robot_row(entry, which, setup)
        palm = row["robot_palm"]
        turned = Rotation.from_matrix(palm[:3, :3]).as_quat().astype(np.float32)
        state = np.concatenate((row["robot_joints_rad"], palm[:3, 3], turned)).astype(np.float32)
    held = np.zeros(7, np.float32)
    if result.has_object:
        held[:3] = result.object_translation
        held[3:] = Rotation.from_matrix(np.asarray(result.object_rotation, np.float64)).as_quat()
    seen = np.zeros(21, np.float32) if result.visibility is None else np.asarray(result.visibility, np.float32)
    sigma = np.zeros(21, np.float32) if result.sigma_mm is None else np.asarray(result.sigma_mm, np.float32)
    contact = 0.0 if result.hand_contact is None else float(np.mean(np.asarray(result.hand_contact) > 0.5))
    return {
        "observation.state": (state, "rad, m"),
        "observation.hand_joints": (joints.reshape(-1), "m"),
        "observation.object": (held, "m"),
        "observation.object_class": (np.int64(result.object_class if result.has_object else -1), ""),
        "observation.contact_share": (np.float32(contact), "0-1"),
        "observation.visibility": (seen, "0-1"),
        "observation.sigma_mm": (sigma, "mm"),
        "observation.intrinsics": (np.asarray(result.intrinsics, np.float32).reshape(-1), "px"),
        "observation.is_right": (np.int64(result.side == "right"), ""),
        "observation.time_s": (np.float32(0.0 if picture.time_s is None else picture.time_s), "s"),
    }


def state_names(setup: Setup) -> list[str]:
    """What the numbers of ``observation.state`` are."""
    if setup.robot is not None:
        palm = ["palm_x_m", "palm_y_m", "palm_z_m", "palm_qx", "palm_qy", "palm_qz", "palm_qw"]
        return [f"{name}_rad" for name in setup.robot.joint_names] + palm
    return [f"{joint}_{axis}_m" for joint in setup.about["joint_names"] for axis in "xyz"]


def split_into_episodes(hand: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, list[range]]:
    """The order of rows by hand and frame, and the runs of consecutive frames in that order.

    Args:
        hand, place: int [N], of each row: the hand's number and the frame's place in the film.
    """
    order = np.lexsort((place, hand))
    hand, place = hand[order], place[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(hand) != 0) | (np.diff(place) != 1)])
    return order, [range(a, b) for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(order)])]


def next_of_each(state: np.ndarray, episodes: list[range]) -> np.ndarray:
    """[N, D]: the state of the next frame; the last of an episode stays."""
    action = np.roll(state, -1, axis=0)
    for episode in episodes:
        action[episode[-1]] = state[episode[-1]]
    return action


def counters(episodes: list[range], rate: float) -> dict[str, np.ndarray]:
    """The columns that every data set has."""
    frame = np.concatenate([np.arange(len(episode)) for episode in episodes])
    which = np.concatenate([np.full(len(episode), k) for k, episode in enumerate(episodes)])
    return {
        "timestamp": (frame / rate).astype(np.float32),
        "frame_index": frame.astype(np.int64),
        "episode_index": which.astype(np.int64),
        "index": np.arange(len(frame), dtype=np.int64),
        "task_index": np.zeros(len(frame), np.int64),
    }


def episode_rows(
    episodes: list[range], place: np.ndarray, data: dict[str, np.ndarray], rate: float
) -> list[dict[str, Any]]:
    """Where each episode's rows and pictures are, and its statistics."""
    rows = []
    for number, episode in enumerate(episodes):
        first = int(place[episode[0]])
        row = {
            "episode_index": number,
            "tasks": [TASK],
            "length": len(episode),
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": episode[0],
            "dataset_to_index": episode[-1] + 1,
            f"videos/{CAMERA}/chunk_index": 0,
            f"videos/{CAMERA}/file_index": 0,
            f"videos/{CAMERA}/from_timestamp": first / rate,
            f"videos/{CAMERA}/to_timestamp": (first + len(episode)) / rate,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        part = {name: values[episode[0] : episode[-1] + 1] for name, values in data.items()}
        for feature, found in stats(part).items():
            row |= {f"stats/{feature}/{name}": value for name, value in found.items()}
        rows.append(row)
    return rows


def stats(data: dict[str, np.ndarray]) -> dict[str, dict[str, list]]:
    """Minimum, maximum, mean, standard deviation, count and quantiles of each feature."""
    found = {}
    for name, values in data.items():
        values = values.reshape(len(values), -1).astype(np.float64)
        found[name] = {
            "min": values.min(0).tolist(),
            "max": values.max(0).tolist(),
            "mean": values.mean(0).tolist(),
            "std": values.std(0).tolist(),
            "count": [len(values)],
            **{key: np.quantile(values, share, axis=0).tolist() for key, share in QUANTILES.items()},
        }
    return found


def _table(data: dict[str, np.ndarray]) -> Any:
    import pyarrow as arrow

    columns = {}
    for name, values in data.items():
        flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = flat if values.ndim == 1 else arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return arrow.table(columns)


def _episode_table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as arrow

    return arrow.Table.from_pylist(rows)


def _tasks() -> Any:
    """The table of tasks as pandas writes a frame whose index is the task's text."""
    import pyarrow as arrow

    table = arrow.table({"task_index": arrow.array([0], arrow.int64()), "__index_level_0__": [TASK]})
    described = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {
                "name": None,
                "field_name": "__index_level_0__",
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": None,
            },
        ],
        "creator": {"library": "pyarrow", "version": arrow.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
