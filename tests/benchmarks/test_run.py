"""`python -m benchmarks.run` and `pytest benchmarks`: the same cases, and a failure that is written and not swallowed."""

import json
import os
import subprocess
import sys
import types
from dataclasses import replace

import pytest
import torch

from benchmarks import harness, run
from benchmarks.results import ROOT, load
from benchmarks.run import main

CPU = torch.device("cpu")


def probe(name, ours=torch.sin):
    return harness.Case(
        name, {"B": 4}, torch.float32, CPU, lambda g: (torch.randn(4, generator=g),), ours, torch.sin, flops=1, bytes=1
    )


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Runs the given cases as the part "ops" and returns the exit status and the records."""
    monkeypatch.setattr(harness, "_ceilings", {("cpu", True): {"copy_gb_s": 1.0, "matrix_tflop_s": {"float32": 1.0}}})

    def call(cases, *options, parts=("ops",)):
        module = types.SimpleNamespace(PART="ops", cases=cases)
        monkeypatch.setattr(run, "modules", lambda parts: [("probe", module)])
        path = tmp_path / "cpu.json"
        status = main([*parts, "--quick", "--device", "cpu", "--output", str(path), *options])
        return status, load(path)["records"]

    return call


def test_wrong_and_broken_cases_are_written_and_the_next_one_runs(measured, capsys):
    def broken(x):
        raise RuntimeError("no such kernel")

    cases = [probe("wrong", torch.cos), probe("broken", broken), probe("right")]
    status, records = measured(lambda device, quick: cases)
    assert status == 1
    wrong, failed, right = records
    assert "off by" in wrong["failed"]
    assert "ours_ms" not in wrong
    assert failed["failed"] == "no such kernel"
    assert right["ours_ms"] > 0
    assert "FAILED" in capsys.readouterr().err


def test_right_cases_end_with_status_0_and_filter_chooses(measured):
    status, records = measured(lambda device, quick: [probe("one"), probe("two")], "--filter", "two")
    assert status == 0
    assert [r["op"] for r in records] == ["two"]


def test_out_of_time_lists_what_was_not_begun(measured, capsys):
    status, records = measured(lambda device, quick: [probe("one"), probe("two")], "--seconds", "-1")
    assert (status, records) == (run.UNFINISHED, [])
    assert "out of time, not begun: one-B4-float32-forward, two-B4-float32-forward" in capsys.readouterr().out


def test_a_lost_device_ends_the_file_and_what_is_left_can_be_gone_on_with(measured, capsys):
    def faulted(x):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    status, records = measured(lambda device, quick: [probe("one", faulted), probe("two"), probe("three")])
    assert status == run.BOTH
    assert [r["op"] for r in records] == ["one"]
    assert "not begun: two-B4-float32-forward, three-B4-float32-forward" in capsys.readouterr().out


def test_new_leaves_out_what_the_commit_has_measured(measured, monkeypatch):
    from benchmarks import results

    monkeypatch.setattr(results, "commit", lambda: "abc")
    monkeypatch.setattr(results.Results, "has", lambda self, record, compiled=False: record["op"] == "one")
    status, records = measured(lambda device, quick: [probe("one"), probe("two")], "--new")
    assert status == 0
    assert [r["op"] for r in records] == ["two"]


def test_ceilings_are_measured_once_unless_they_are_asked_for(measured, monkeypatch):
    from benchmarks import results

    monkeypatch.setattr(results, "commit", lambda: "abc")
    measured(lambda device, quick: [probe("one")])
    rates = {"copy_gb_s": 2.0, "matrix_tflop_s": {"float32": 2.0}}
    monkeypatch.setattr(harness, "_ceilings", {("cpu", True): rates})
    _, (record,) = measured(lambda device, quick: [probe("one")])
    assert record["copy_share"] == pytest.approx(record["gb_s"], abs=1e-3)  # of 1 GB/s
    _, (record,) = measured(lambda device, quick: [probe("one")], parts=("ops", "ceilings"))
    assert record["copy_share"] == pytest.approx(record["gb_s"] / 2, abs=1e-3)


def test_what_is_not_there_is_skipped_and_said(measured, capsys):
    def cases(device, quick):
        raise harness.Unavailable("roma does not import")

    assert measured(cases) == (0, [])
    assert "probe: skipped, roma does not import" in capsys.readouterr().out


def test_unknown_part_lists_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["everything"])
    assert (
        "no part 'everything'; there are ceilings, ops, model, train, launch, encoder, attention"
        in capsys.readouterr().err
    )


def test_every_file_names_its_part_and_yields_cases():
    found = run.modules(["ops", "model", "train"])
    assert {"attention", "model", "train"} <= {name for name, _ in found}
    for name, module in found:
        assert module.PART in run.PARTS, name
        cases = list(module.cases(CPU, True))
        assert cases, name
        assert len({str(c) for c in cases}) == len(cases), name
        assert all(c.flops > 0 and c.bytes > 0 for c in cases), name


def test_quick_attention_is_measured():
    (_, module), *_ = run.modules(["attention"])
    for case in module.cases(CPU, True):
        record = harness.measure(replace(case, compile=False), {}, quick=True)
        assert {"ours", "eager", "sdpa"} <= set(record["times_ms"]), record["unavailable"]


def test_pytest_benchmarks_writes_both_files(tmp_path):
    own, other = tmp_path / "own.json", tmp_path / "other.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "benchmarks/bench_attention.py",
        "--quick",
    ]
    command += ["--benchmark-only", f"--results={own}", f"--benchmark-json={other}"]
    # not a worker of the run that this test may itself be part of: pytest-benchmark measures nothing in one
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    records = load(own)["records"]
    assert len(records) == 2
    benchmarks = json.loads(other.read_text())["benchmarks"]
    assert [b["extra_info"]["op"] for b in benchmarks] == ["attention", "attention"]
    assert all(b["stats"]["median"] > 0 for b in benchmarks)
