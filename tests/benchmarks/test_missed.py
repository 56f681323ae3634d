"""What misses its goal is found, profiled, and its limit goes into the record and a sentence."""

import gzip
import json
import types

import pytest
import torch
from test_roofline import PRINTED

from benchmarks import harness, missed, results, run
from benchmarks.goals import GOALS
from benchmarks.missed import Timeline, limit_of, main
from benchmarks.results import Results, load
from benchmarks.roofline import Kernel

CPU = torch.device("cpu")


def probe(name="hand_frames", batch=512):
    return harness.Case(
        name,
        {"B": batch},
        torch.float32,
        CPU,
        lambda g: (torch.randn(4, generator=g),),
        torch.sin,
        torch.sin,
        flops=1,
        bytes=1,
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A results file in which hand_frames misses one goal and meets another, and the cases that there are."""
    monkeypatch.setattr(
        missed, "modules", lambda parts=None: [("probe", types.SimpleNamespace(cases=lambda device, quick: [probe()]))]
    )
    times = {"ours": {"median": 1.0}, "eager": {"median": 4.0}}
    path = tmp_path / "cpu.json"
    Results(path, CPU).add(probe().record() | {"times_ms": times, "ratio_eager": 4.0, "variants": []})
    return path


def test_a_missed_goal_is_profiled_and_its_limit_kept(store, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "traces"
    assert main(["--device", "cpu", "--results", str(store), "--folder", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "== hand_frames B 512, over eager: 4 ×, goal ≥ 15 ×" in said
    assert "over the fastest rival" not in said  # 4 × meets 3 ×
    (trace,) = folder.glob("*.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("aten::sin" in str(event.get("name")) for event in events)
    (record,) = load(store)["records"]
    assert record["limit"].startswith("`sin`, ")
    assert f"limit: {record['limit']}" in said
    monkeypatch.setattr(missed, "timeline", None)  # what has been explained is told, and not profiled again
    assert main(["--device", "cpu", "--results", str(store), "--folder", str(folder)]) == 0
    assert f"limit: {record['limit']}" in capsys.readouterr().out


def test_nothing_missed_and_out_of_time_are_said(store, tmp_path, capsys):
    assert main(["--device", "cpu", "--results", str(tmp_path / "new.json"), "--folder", str(tmp_path)]) == 0
    assert "new.json: no goal is missed" in capsys.readouterr().out
    words = ["--device", "cpu", "--results", str(store), "--folder", str(tmp_path), "--seconds", "-1"]
    assert main(words) == missed.UNFINISHED
    assert "out of time, not begun: hand_frames B 512, over eager" in capsys.readouterr().out
    assert "limit" not in load(store)["records"][0]


def test_what_no_case_measures_names_the_program_that_does(tmp_path, monkeypatch, capsys):
    path = tmp_path / "gpu.json"
    store = Results(path, CPU)
    store.add(
        {"op": "video", "pass": "frames to film", "shape": {}, "dtype": "float32", "device": "cuda", "samples_s": 100.0}
    )
    monkeypatch.setattr(missed, "modules", lambda parts=None: [])
    found = list(missed.misses(load(path), "cuda"))
    assert [(goal.op, value) for goal, value, _ in found] == [("video", 100.0)]
    monkeypatch.setattr(
        missed.torch, "device", lambda name: CPU if name == "cpu" else types.SimpleNamespace(type="cuda")
    )
    monkeypatch.setattr(results, "environment", lambda device: {"commit": "abc", "date": "today"})
    assert main(["--device", "cuda", "--results", str(path), "--folder", str(tmp_path)]) == 0
    assert "`python -m benchmarks.video` prints its stages" in capsys.readouterr().out


def test_a_loaded_or_failed_record_misses_nothing(store):
    for flaw in ({"loaded": True}, {"failed": "off"}, {"quick": True}):
        data = load(store)
        data["records"] = [record | flaw for record in data["records"]]
        assert list(missed.misses(data, "cpu")) == []


KERNELS = {"void amt::tap_kernel<float>(int)": 3.0, "zero_fill": 1.0}


@pytest.mark.parametrize(
    ("found", "kernels", "limit"),
    [
        (Timeline(4.0, 1.0, KERNELS), [], "the host: the GPU waits 75 % of a single call"),
        (Timeline(4.1, 4.0, KERNELS), [], "`tap_kernel`, 75 % of the time"),
        (
            Timeline(4.1, 4.0, KERNELS),
            [Kernel("tap_kernel", 1, 9.0, 91.0, 20.0, None, 64)],
            "`tap_kernel`, 75 % of the time, memory at 91 % of the peak",
        ),
        (
            Timeline(4.1, 4.0, KERNELS),
            [Kernel("zero_fill", 1, 9.0, 99.0, 20.0, None, 64), Kernel("tap_kernel", 1, 9.0, 12.0, 83.0, 80.0, 64)],
            "`tap_kernel`, 75 % of the time, multiprocessors at 83 % of the peak",
        ),
        (
            Timeline(4.1, 4.0, KERNELS),
            [Kernel("tap_kernel", 1, 9.0, 31.0, 42.0, None, 64)],
            "`tap_kernel`, 75 % of the time, latency: memory at 31 %, multiprocessors at 42 % of their peak",
        ),
        (Timeline(4.0, None, {}), [], "unknown: the profiler saw nothing"),
    ],
)
def test_the_limit_in_a_sentence(found, kernels, limit):
    assert limit_of(found, kernels) == limit


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("void at::native::(anonymous namespace)::foo<float, 2>(int*)", "foo"),
        ("_taps_kernel", "_taps_kernel"),
        ("sm90_xmma_gemm_bf16bf16_f32", "sm90_xmma_gemm_bf16bf16_f32"),
        ("Memset (Device)", "Memset"),
    ],
)
def test_short_names(kernel, name):
    assert missed.short(kernel) == name


def test_every_op_with_a_goal_names_the_files_of_its_cases():
    there = {name for name, _ in run.modules()}
    assert {file for files in missed.FILES.values() for file in files} <= there
    assert {goal.op for goal in GOALS} - set(missed.FILES) == set(missed.ELSEWHERE)


def ncu(folder, status, csv=""):
    """An ncu that notes its words and prints the CSV."""
    program = folder / "ncu"
    (folder / "printed.csv").write_text(csv)
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/words\ncat {folder}/printed.csv\nexit {status}\n')
    program.chmod(0o755)


def test_nsight_compute_watches_one_call_of_the_case(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    options = types.SimpleNamespace(folder=tmp_path, quick=False)
    ncu(tmp_path, 0, PRINTED)
    assert [kernel.name for kernel in missed.nsight(probe(), options)] == ["large_kernel", "small_kernel"]
    first, second = (tmp_path / "words").read_text().splitlines()
    assert "--nvtx --nvtx-include missed" in first
    assert (
        "-m benchmarks.missed --once --device cuda --file frames,launch --case ^hand_frames\\-B512\\-float32\\-forward$"
        in first
    )
    assert second == f"--import {tmp_path / 'kernels.ncu-rep'} --csv --page raw"
    ncu(tmp_path, 3, "==ERROR== The user does not have permission\n")
    assert missed.nsight(probe(), options) == []
    assert "ncu ended with exit status 3: ==ERROR== The user does not have permission" in capsys.readouterr().out
    monkeypatch.setenv("PATH", "/nowhere")
    assert missed.nsight(probe(), options) == []
    assert "ncu is not on the PATH" in capsys.readouterr().out
