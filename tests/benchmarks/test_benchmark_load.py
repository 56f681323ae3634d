"""`python -m benchmarks.load`: what it writes, and that its busy processes end."""

import json
import os

import pytest
import torch

from benchmarks import load


def test_a_quick_run_writes_every_condition(tmp_path):
    path, threads = tmp_path / "load.json", torch.get_num_threads()
    assert load.main(["--quick", "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["quick"] is True
    (times,) = record["ops"].values()
    assert list(times) == list(load.CONDITIONS)
    assert all(t["ours"] > 0 and t["eager"] > 0 for t in times.values())
    assert set(record["image"]["as installed"]) == {"quiet", "loaded"}
    assert torch.get_num_threads() == threads


def test_a_part_that_is_measured_anew_leaves_the_other(tmp_path):
    path = tmp_path / "load.json"
    path.write_text(json.dumps({"image": {"one thread": {"quiet": 1.0, "loaded": 2.0}}}))
    assert load.main(["ops", "--quick", "--output", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["image"] == {"one thread": {"quiet": 1.0, "loaded": 2.0}}
    assert record["ops"]


def test_busy_processes_end_with_an_exception(monkeypatch):
    begun = []
    start = load.subprocess.Popen

    def popen(*arguments, **options):
        begun.append(start(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(load.subprocess, "Popen", popen)

    def fail() -> None:
        with load.busy():
            assert all(process.poll() is None for process in begun)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(begun) == load.cores() <= (os.cpu_count() or 1)
    assert all(process.poll() is not None for process in begun)


def test_unknown_part_lists_those_there_are(capsys):
    with pytest.raises(SystemExit):
        load.main(["everything"])
    assert "no part 'everything'; there are ops, image" in capsys.readouterr().err
