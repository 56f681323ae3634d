"""Every format of --export: what is in it, what a killed run leaves, and what its own reader says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from infer_files import write_video

from amt.data.bop_csv import HEADER
from amt.infer.__main__ import main
from amt.infer.checks import InputError
from amt.infer.inputs import Picture
from amt.infer.output import OutputError, OutputFolder
from amt.infer.run import record_of
from amt.infer.writers import FORMATS, Writers, read_formats
from amt.infer.writers.entry import Entry, Setup, about
from amt.infer.writers.lerobot import CAMERA, counters, episode_rows, next_of_each, split_into_episodes, stats
from amt.infer.writers.rows import GrowingArray

RATE = 12.0
# two hands, the second lost for a frame, then one, then none
NUMBERS = ((3, 5), (3, 5), (3,), (3, 5), (None,))


def entries(photo, result) -> list[Entry]:
    from types import SimpleNamespace

    made = []
    for k, numbers in enumerate(NUMBERS):
        picture = Picture(f"{k:06d}", photo, Path("clip.mp4"), k, k / RATE)
        results = tuple(
            replace(result, hand_found=number is not None, joints=result.joints + np.float32(0.001 * k))
            for number in numbers
        )
        question = SimpleNamespace(picture=picture, truth=None, sources={"intrinsics_source": "given"})
        records = tuple(record_of(question, one, number) for one, number in zip(results, numbers))
        made.append(Entry(k, picture, results, numbers, records))
    return made


def setup_of(folder: Path, result) -> Setup:
    described = about("amt", len(result.vertices), result.faces)
    return Setup(OutputFolder(folder), RATE, len(result.vertices), 64, about=described)


def write(names, folder: Path, photo, result) -> list[Entry]:
    made = entries(photo, result)
    with Writers(names, setup_of(folder, result)) as writers:
        for entry in made:
            writers.add(entry)
    return made


def test_npz_holds_every_number_with_its_unit(tmp_path, photo, result):
    made = write(["npz"], tmp_path, photo, result)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as found:
        assert found["hand"].tolist() == [3, 5, 3, 5, 3, 3, 5, -1]
        assert found["hand_found"].tolist() == [True] * 7 + [False]
        assert found["is_right"].all()
        assert np.allclose(found["time_s"][[0, 2, 7]], [0, 1 / RATE, 4 / RATE])
        assert np.array_equal(found["joints_m"][2], made[1].results[0].joints)
        assert np.array_equal(found["vertices_m"][0], result.vertices)
        assert np.array_equal(found["object_rotation"][0], result.object_rotation)
        assert np.isnan(found["joints_m"][7]).all()
        assert np.isnan(found["visibility"]).all()
        assert found["object_class"].tolist() == [0] * 7 + [-1]
        assert found["images"].tolist() == ["clip.mp4"]
        described = json.loads(str(found["about"]))
    assert described["hand_mesh"]["triangles"] == len(result.faces)
    assert "_m" in described["units"]
    assert not list(tmp_path.glob(".part*"))


def test_an_array_can_be_read_after_every_row(tmp_path):
    array = GrowingArray(tmp_path / "a.npy", (2,), np.float32)
    assert np.load(tmp_path / "a.npy").shape == (0, 2)
    for k in range(12):
        array.append((k, -k))
        assert np.load(tmp_path / "a.npy")[-1].tolist() == [k, -k]
    with pytest.raises(ValueError, match=r"a\.npy: expected a row \[2\], got \[3\]"):
        array.append((1, 2, 3))
    array.file.close()


def test_a_run_without_a_hand_says_what_it_does_not_write(tmp_path, photo, result):
    pytest.importorskip("pyarrow")
    said = []
    setup = replace(setup_of(tmp_path, result), say=said.append)
    with Writers(["npz", "csv", "lerobot", "bop"], setup) as writers:
        writers.add(entries(photo, result)[4])
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(("written-by", "."))) == [
        "predictions.csv", "predictions.jsonl", "predictions.npz",
    ]  # fmt: skip
    assert len(said) == 2
    assert any("lerobot: not written, no hand was seen" in line for line in said)
    assert any(
        "predictions_bop.csv: not written, no hand with a known object was seen; --object" in line for line in said
    )
    assert not list(tmp_path.glob(".part-*"))


def test_a_video_of_one_frame_is_a_data_set(tmp_path, photo, result):
    parquet = pytest.importorskip("pyarrow.parquet")
    with Writers(["npz", "csv", "lerobot", "bop"], setup_of(tmp_path, result)) as writers:
        writers.add(entries(photo, result)[2])
    table = parquet.read_table(tmp_path / "lerobot" / "data/chunk-000/file-000.parquet")
    assert table["action"].to_pylist() == table["observation.state"].to_pylist()
    info = json.loads((tmp_path / "lerobot" / "meta" / "info.json").read_text())
    assert (info["total_frames"], info["total_episodes"]) == (1, 1)
    assert len((tmp_path / "predictions_bop.csv").read_text().splitlines()) == 2


def test_csv_ends_with_the_object(tmp_path, photo, result):
    write(["csv"], tmp_path, photo, result)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(rows) == 8
    assert float(rows[0]["object_tz_m"]) == pytest.approx(result.object_translation[2], abs=1e-5)
    assert (rows[0]["object_class"], rows[7]["object_class"]) == ("0", "")


def test_bop_has_a_line_an_object_in_millimetres(tmp_path, photo, result):
    write(["bop"], tmp_path, photo, result)
    lines = (tmp_path / "predictions_bop.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert len(lines) == 8
    scene, image, kind, _, rotation, moved, time = lines[3].split(",")
    assert (scene, image, kind, time) == ("0", "1", "0", "-1")
    assert np.allclose(np.fromstring(rotation, sep=" "), np.eye(3).ravel())
    assert np.allclose(np.fromstring(moved, sep=" "), 1000 * result.object_translation, atol=1e-3)


def test_mcap_is_read_back_with_the_schemas_that_foxglove_knows(tmp_path, photo, result):
    reader = pytest.importorskip("mcap.reader")
    write(["mcap"], tmp_path, photo, result)
    with open(tmp_path / "predictions.mcap", "rb") as file:
        opened = reader.make_reader(file)
        found = [(s.name, c.topic, m.log_time, json.loads(m.data)) for s, c, m in opened.iter_messages()]
        assert opened.get_summary().statistics.message_count == 6 * len(NUMBERS)
        metadata = {m.name: m.metadata for m in opened.iter_metadata()}
    assert {f"{schema} {topic}" for schema, topic, _, _ in found} == {
        "foxglove.CompressedImage /camera/image",
        "foxglove.CameraCalibration /camera/calibration",
        "foxglove.SceneUpdate /hands",
        "foxglove.PosesInFrame /hands/wrists",
        "foxglove.PosesInFrame /objects",
        "amt.Hands /amt/hands",
    }
    of = {topic: [m for _, t, _, m in found if t == topic] for _, topic, _, _ in found}
    assert [[e["id"] for e in m["entities"]] for m in of["/hands"]][:3] == [["hand 3", "hand 5"]] * 2 + [["hand 3"]]
    assert [[d["id"] for d in m["deletions"]] for m in of["/hands"]] == [[], [], ["hand 5"], [], ["hand 3", "hand 5"]]
    assert of["/amt/hands"][0]["hands"][1]["joints_m"] == np.round(result.joints.astype(float), 6).tolist()
    assert of["/camera/calibration"][0]["K"] == result.intrinsics.ravel().tolist()
    assert json.loads(metadata["about"]["units"])["_m"] == "metres"
    assert [time for _, topic, time, _ in found if topic == "/hands"][1] == round(1e9 / RATE)


def test_mcap_messages_are_made_without_the_package_too(tmp_path, photo, result, monkeypatch):
    """The same calls into a stand-in for the package, which an ordinary installation lacks."""
    from types import SimpleNamespace

    told = {"schemas": [], "channels": [], "messages": []}

    class Stub:
        def __init__(self, file, chunk_size):
            self.file = file

        def start(self, profile, library):
            pass

        def add_metadata(self, name, data):
            assert all(isinstance(value, str) for value in data.values())

        def register_schema(self, name, encoding, data):
            assert json.loads(data)["type"] == "object"
            told["schemas"].append((name, encoding))
            return len(told["schemas"])

        def register_channel(self, topic, encoding, schema):
            told["channels"].append((topic, told["schemas"][schema - 1][0]))
            return len(told["channels"])

        def add_message(self, channel, time, data, publish, sequence):
            told["messages"].append((told["channels"][channel - 1][0], time, json.loads(data)))

        def finish(self):
            self.file.write(b"end")

    monkeypatch.setitem(sys.modules, "mcap", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mcap.writer", SimpleNamespace(Writer=Stub))
    write(["mcap"], tmp_path, photo, result)
    assert (tmp_path / "predictions.mcap").read_bytes() == b"end"
    assert ("/hands", "foxglove.SceneUpdate") in told["channels"]
    assert len(told["messages"]) == 6 * len(NUMBERS)
    gone = [[d["id"] for d in m["deletions"]] for topic, _, m in told["messages"] if topic == "/hands"]
    assert gone == [[], [], ["hand 5"], [], ["hand 3", "hand 5"]]


def test_episodes_are_runs_of_frames_of_one_hand():
    hand, place = np.array([3, 5, 3, 5, 3, 3, 5]), np.array([0, 0, 1, 1, 2, 3, 3])
    order, episodes = split_into_episodes(hand, place)
    assert order.tolist() == [0, 2, 4, 5, 1, 3, 6]
    assert episodes == [range(0, 4), range(4, 6), range(6, 7)]
    state = np.arange(7.0)[:, None]
    assert next_of_each(state, episodes).ravel().tolist() == [1, 2, 3, 3, 5, 5, 6]
    data = {"observation.state": state} | counters(episodes, RATE)
    assert data["frame_index"].tolist() == [0, 1, 2, 3, 0, 1, 0]
    rows = episode_rows(episodes, place[order], data, RATE)
    assert [row["length"] for row in rows] == [4, 2, 1]
    assert [row[f"videos/{CAMERA}/from_timestamp"] for row in rows] == [0, 0, 3 / RATE]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 4), (4, 6), (6, 7)]
    assert rows[1]["stats/observation.state/mean"] == [4.5]
    found = stats(data)["observation.state"]
    assert (found["min"], found["max"], found["count"], found["q50"]) == ([0], [6], [7], [3])


def test_lerobot_v3_is_what_its_documentation_says(tmp_path, photo, result):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(["lerobot"], tmp_path, photo, result)
    root = tmp_path / "lerobot"
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 12)
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (3, 7, {"train": "0:3"})
    table = parquet.read_table(root / info["data_path"].format(chunk_index=0, file_index=0))
    assert set(table.column_names) | {CAMERA} == set(info["features"])
    assert table.num_rows == 7
    for name in table.column_names:
        feature, kind = info["features"][name], table.schema.field(name).type
        size = kind.list_size if hasattr(kind, "list_size") else 1
        value = kind.value_type if hasattr(kind, "list_size") else kind
        assert feature["shape"] == [size], name
        assert str(value).replace("float", "float32").replace("double", "float64") == feature["dtype"], name
    assert len(info["features"]["action"]["names"]) == 63
    state, action = (np.array(table[name].to_pylist()) for name in ("observation.state", "action"))
    assert np.allclose(state[0], result.joints.ravel())
    assert np.array_equal(action[0], state[1])
    episodes = parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [e["dataset_to_index"] - e["dataset_from_index"] for e in episodes] == [e["length"] for e in episodes]
    assert all(e["tasks"] == ["follow the hand in the video"] for e in episodes)
    tasks = parquet.read_table(root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]
    assert set(json.loads((root / "meta/stats.json").read_text())) == set(table.column_names)
    assert _frames(root / info["video_path"].format(video_key=CAMERA, chunk_index=0, file_index=0)) == len(NUMBERS)
    assert not list(tmp_path.glob(".part*")) + list(tmp_path.glob("*.mp4"))
    write(["lerobot"], tmp_path, photo, result)  # its own data set is replaced
    (root / "meta/amt.json").unlink()
    with pytest.raises(OutputError, match="lerobot: exists and was not written by amt"):
        write(["lerobot"], tmp_path, photo, result)


def _frames(path: Path) -> int:
    import cv2

    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    return count


KILLED = """
import os, signal, sys, pickle
sys.path[:0] = [{tests!r}, {root!r}]
from test_writers import setup_of
from amt.infer.writers import Writers
entries, result, names = pickle.load(open({data!r}, "rb"))
with Writers(names, setup_of({out!r}, result)) as writers:
    for entry in entries:
        writers.add(entry)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_files_that_can_be_read(tmp_path, photo, result):
    import pickle

    names = [n for n in FORMATS if n != "rerun" and (n not in ("mcap", "lerobot") or _installed(FORMATS[n].package))]
    (tmp_path / "data").write_bytes(pickle.dumps((entries(photo, result), result, names)))
    tests = str(Path(__file__).parent)
    script = KILLED.format(tests=tests, root=os.getcwd(), data=str(tmp_path / "data"), out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    out = tmp_path / "out"
    assert len((out / ".part-predictions.jsonl").read_text().splitlines()) == 8
    assert len((out / ".part-predictions.csv").read_text().splitlines()) == 9
    assert len((out / ".part-predictions_bop.csv").read_text().splitlines()) == 8
    assert np.load(out / ".part-predictions.npz-arrays/joints_m.npy").shape == (8, 21, 3)
    if "mcap" in names:
        from mcap.exceptions import McapError
        from mcap.reader import NonSeekingReader

        topics = []
        with open(out / ".part-predictions.mcap", "rb") as file:
            messages = NonSeekingReader(file).iter_messages(log_time_order=False)
            with suppress(McapError):  # told at the cut end
                for _, channel, _ in messages:
                    topics.append(channel.topic)
        assert "/amt/hands" in topics
    if "lerobot" in names:
        assert np.load(out / ".part-lerobot-arrays/observation.state.npy").shape == (7, 63)


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def test_unknown_formats_and_missing_packages_are_one_line(monkeypatch):
    with pytest.raises(InputError, match="--export: expected some of npz, csv, mcap, lerobot, rerun, bop, got 'hdf5'"):
        read_formats("npz,hdf5")
    monkeypatch.setattr("amt.infer.writers.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--export mcap: the package mcap is not installed; pip install amt\[mcap\]"):
        read_formats("mcap")
    assert read_formats("npz,csv,npz") == ("npz", "csv")


def test_a_data_set_of_single_pictures_is_refused_before_the_work(checkpoint, picture, capsys):
    pytest.importorskip("pyarrow")
    assert main([str(checkpoint), str(picture), "--export", "lerobot"]) == 2
    assert "--export lerobot: expected a video, or pictures with --video FPS" in capsys.readouterr().err


def test_the_command_exports_a_video(checkpoint, photo, tmp_path, capsys):
    clip = write_video(tmp_path / "clip.mp4", [photo] * 3)
    names = [name for name in FORMATS if FORMATS[name].package is None]
    words = [str(checkpoint), str(clip), "--out", str(tmp_path / "out"), "--no-draw", "--export", ",".join(names)]
    assert main(words) == 0, capsys.readouterr().err
    with np.load(tmp_path / "out" / "predictions.npz") as found:
        assert found["joints_m"].shape == (3, 21, 3)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"predictions.csv", "predictions.jsonl"}
