"""``--engine ray``: the lines of one process, in parts that are done once; with a stand-in for Ray Data, and with Ray itself."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from infer_files import write_image

from amt.infer.__main__ import main
from amt.infer.checks import InputError
from amt.infer.collection import PARTS
from amt.infer.stores import list_items

ROOT = Path(__file__).parents[2]
CAMERA = ["--intrinsics", "310,305,158,121", "--box", "150,120,100"]


class Data:
    """Ray Data's calls on rows in this process; ``done`` lists the keys that were mapped."""

    def __init__(self):
        self.rows, self.done = [], []
        self.DataContext = types.SimpleNamespace(get_current=lambda: types.SimpleNamespace())
        self.ActorPoolStrategy = lambda size: size

    def from_items(self, rows, override_num_blocks):
        self.rows = rows
        return self

    def map_batches(self, worker, *, fn_constructor_args, batch_size, **_):
        self.worker = worker(*fn_constructor_args)
        return self

    def iter_rows(self):
        for row in self.rows:
            self.done.append(row["key"])
            yield {"pictures": self.worker({"key": np.array([row["key"]])})["pictures"][0]}


@pytest.fixture
def data(monkeypatch):
    made = Data()
    ray = types.ModuleType("ray")
    ray.__spec__ = types.SimpleNamespace()
    ray.is_initialized, ray.cluster_resources, ray.data = lambda: True, lambda: {"CPU": 1}, made
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", made)
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Seven, the fourth of them broken."""
    folder = tmp_path_factory.mktemp("collection") / "pictures"
    folder.mkdir()
    for i in range(7):
        coarse = np.random.default_rng(i).integers(0, 255, (24, 32, 3), np.uint8)
        write_image(folder / f"{i}.png", coarse.repeat(10, 0).repeat(10, 1))
    (folder / "3.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def one_process(checkpoint, pictures, tmp_path_factory):
    """The lines of a plain run, sorted."""
    out = tmp_path_factory.mktemp("collection") / "one"
    words = [str(checkpoint), str(pictures), "--out", str(out), "--batch", "2", "--no-draw", *CAMERA]
    assert main(words) == 2  # for the broken one
    return sorted((out / "predictions.jsonl").read_bytes().splitlines())


def collect(checkpoint, pictures, out) -> int:
    return main([str(checkpoint), str(pictures), "--out", str(out), "--batch", "2", "--engine", "ray", *CAMERA])


def test_the_lines_are_those_of_one_process_and_are_made_once(
    checkpoint, pictures, one_process, data, tmp_path, capsys
):
    out = tmp_path / "out"
    assert collect(checkpoint, pictures, out) == 2
    said = capsys.readouterr()
    assert f"{pictures / '3.png'}: " in said.err
    assert "6 image(s), 0 of them done before" in said.out
    assert sorted((out / "predictions.jsonl").read_bytes().splitlines()) == one_process
    assert len(data.done) == len(set(data.done)) == 4

    # a second run looks again at the part with the broken picture alone
    before = data.done[1]
    data.done.clear()
    assert collect(checkpoint, pictures, out) == 2
    assert data.done == [before]

    # a part that was cut short, as by a full disk, is made again
    part = next((out / PARTS).iterdir())
    part.write_text(part.read_text()[:100])
    data.done.clear()
    assert collect(checkpoint, pictures, out) == 2
    assert set(data.done) == {before, part.stem}
    assert sorted((out / "predictions.jsonl").read_bytes().splitlines()) == one_process


def test_other_settings_and_other_pictures_are_other_parts(checkpoint, pictures, data, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("0.png", "1.png"):
        (few / name).write_bytes((pictures / name).read_bytes())
    out = tmp_path / "out"
    assert collect(checkpoint, few, out) == 0
    assert collect(checkpoint, few, out) == 0
    assert len(data.done) == 1
    (few / "1.png").write_bytes((pictures / "2.png").read_bytes())
    assert collect(checkpoint, few, out) == 0
    assert len(set(data.done)) == 2
    words = [str(checkpoint), str(few), "--out", str(out), "--batch", "2", "--engine", "ray", *CAMERA, "--side", "left"]
    assert main(words) == 0
    assert len(set(data.done)) == 3


def test_pictures_of_an_object_store_are_found_and_predicted(checkpoint, pictures, one_process, data, tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("0.png", "1.png", "notes.txt"):
        store.pipe(f"/bucket/{name}", (pictures / "0.png" if name == "notes.txt" else pictures / name).read_bytes())
    assert [item.name for item in list_items(["memory://bucket"])] == [
        "memory:///bucket/0.png",
        "memory:///bucket/1.png",
    ]
    assert len(list_items(["memory://bucket/*0.png"])) == 1
    assert collect(checkpoint, "memory://bucket", tmp_path / "out") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    local = {Path(record["image"]).name: record for record in map(json.loads, one_process)}
    for record in lines:
        assert record["image"].startswith("memory:///bucket/")
        name = record["image"].rpartition("/")[2]
        assert record == local[name] | {"image": record["image"]}
    with pytest.raises(InputError, match=r"memory://empty: holds no image|memory://empty: cannot be listed"):
        list_items(["memory://empty"])
    with pytest.raises(InputError, match=r"nothing://bucket: .*nothing"):
        list_items(["nothing://bucket"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--csv"], "--csv: does not go with --engine ray"),
        (["--workers", "0"], "--workers: expected at least 1, got 0"),
        (["film.mp4"], "film.mp4: a video is followed from frame to frame; leave --engine ray out"),
    ],
)
def test_what_does_not_go_with_ray_is_one_line(
    checkpoint, pictures, data, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    Path("film.mp4").touch()
    assert main([str(checkpoint), str(pictures), "--engine", "ray", "--out", "out", *words]) == 2
    assert message in capsys.readouterr().err


def workers_of(process: subprocess.Popen) -> list[int]:
    """Processes of Ray that hold a predictor, below this one."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if b"Worker" in (entry / "cmdline").read_bytes() and (entry / "cmdline").read_bytes().startswith(b"ray::"):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue

    def is_below(pid: int) -> bool:
        while pid in parents and pid != process.pid:
            pid = parents[pid]
        return pid == process.pid

    return [pid for pid in found if is_below(pid)]


@pytest.mark.slow
def test_two_workers_one_of_them_killed(checkpoint, pictures, tmp_path):
    """With Ray itself. A worker is killed once parts are there; the lines are those of one process all the same."""
    pytest.importorskip("ray")
    many = tmp_path / "many"
    many.mkdir()
    for i in range(60):
        (many / f"{i:02}.png").write_bytes((pictures / f"{i % 3}.png").read_bytes())
    words = [str(checkpoint), str(many), "--batch", "2", *CAMERA, "infer.threads=1"]  # what Ray gives a worker
    # Ray gives up after 30 s by itself, which a busy machine takes to start it
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "300"}
    command = [sys.executable, "-m", "amt.infer", *words, "--engine", "ray", "--workers", "2", "--out"]
    out = tmp_path / "killed"
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen([*command, str(out)], env=environment, cwd=tmp_path, stdout=said, stderr=said)
    killed = None
    while process.poll() is None and killed is None:
        parts = list(out.glob(f"{PARTS}/*.json"))
        running = workers_of(process)
        if parts and len(running) == 2:
            killed = running[0]
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.02)
    assert process.wait(timeout=600) == 0, (tmp_path / "said").read_text()
    assert killed is not None
    main([*words, "--no-draw", "--out", str(tmp_path / "one")])
    one, two = (tmp_path / name / "predictions.jsonl" for name in ("one", "killed"))
    assert sorted(two.read_bytes().splitlines()) == sorted(one.read_bytes().splitlines())
    # a second run starts no worker
    again = subprocess.run([*command, str(out)], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "60 image(s), 60 of them done before" in again.stdout
