"""benchmarks/gpu.sh as far as it goes without a GPU: --dry runs every part on the CPU."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.goals import GOALS
from benchmarks.results import ROOT, load
from benchmarks.run import modules

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PARTS = "versions build ceilings warm attention launch encoder tests sanitize ops model train data video profile learn"


def script(*arguments, **variables):
    """Runs it without a limit of this test's own: the script ends each of its parts in time, however slow the machine is."""
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(["bash", str(SCRIPT), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """The whole dry run, once: what it printed, its folder, and the results files of the repository before it."""
    folder = tmp_path_factory.mktemp("rehearsal")
    before = kept_results()
    done = script("--dry", TMPDIR=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder, before


def kept_results():
    return {path.name for path in (ROOT / "benchmarks" / "results").rglob("*")}


def results_of(printed):
    return Path(re.search(r"^results: (\S+);", printed, re.MULTILINE)[1])


def test_dry_run_does_every_part_and_writes_results_outside_the_repository(rehearsal):
    printed, folder, before = rehearsal
    for part in PARTS.split():
        assert re.search(rf"^{part}: ok, \d+ s$", printed, re.MULTILINE), part
    assert "go on:" not in printed
    results = results_of(printed)
    assert folder in results.parents
    data = load(results)
    measured = {"attention", "encoder", "encoder fp8", "model", "training step", "crops", "video", "training run"}
    assert measured <= {r["op"] for r in data["records"]}
    assert all("failed" not in r for r in data["records"])
    assert all(r["quick"] for r in data["records"] if r["op"] != "crops")
    assert data["ceilings"]["copy_gb_s"] > 0
    assert kept_results() == before


def test_tables_are_written_outside_the_repository_and_the_goals_measured(rehearsal):
    printed, folder, _ = rehearsal
    written = sorted(str(path) for path in folder.glob("*/*/tables/cpu.json"))
    assert [path.split("/")[-3] for path in written] == ["attention", "block"]
    assert all(f"written: {path}" in printed for path in written)
    found = {(r["op"], r["pass"]) for r in load(results_of(printed))["records"]}
    assert ("hand_frames", "forward+backward, autograd on the caller's thread") in found
    block = json.loads(Path(written[1]).read_text())["rows"][0]["ms"]
    assert set(block) == {"stock", "fused", "fused_gelu", "fused_tanh"}


def test_a_model_is_trained_and_scored_a_video_answered_and_a_case_profiled(rehearsal):
    printed, folder, _ = rehearsal
    (run,) = folder.glob("*/learn/run-*")
    assert (run / "learn.png").stat().st_size > 5000
    (record,) = [r for r in load(results_of(printed))["records"] if r["op"] == "training run"]
    metrics = json.loads((run / "checkpoint" / "metrics.json").read_text())
    assert record["metrics"]["wrist_aligned_mpjpe_mm"] == round(metrics["wrist_aligned_mpjpe_mm"], 4)
    assert [images for images, *_ in record["curve"]] == [4, 8]
    assert record["images"] == 8
    (shown,) = [r for r in load(results_of(printed))["records"] if r["op"] == "video"]
    assert shown["shape"] == {"checkpoint": "amt-tiny", "size": "tiny", "frame": "640x480"}
    assert min(shown[name] for name in ("samples_s", "samples_s_busy", "answer_ms", "network_ms", "first_answer_s")) > 0
    assert set(shown["over_plain"]) == {"network", "answer", "end to end"}
    assert list(folder.glob("*/profile/hand_frames-*.json.gz"))
    assert "limit: `" in printed


def test_one_part_runs_alone(tmp_path):
    done = script("--dry", "ceilings", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("== ")] == [
        "== ceilings (at most 3600 s)",
        "== summary",
    ]


def test_what_does_not_fit_the_minutes_is_left_for_the_next_command(tmp_path):
    done = script("--dry", "--minutes", "0.1", "sanitize", "learn", TMPDIR=str(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "sanitize: not begun\nlearn: not begun" in done.stdout
    assert "benchmarks/gpu.sh --dry --minutes 0.1 build sanitize learn" in done.stdout


@pytest.mark.parametrize("status", [3, 124, 137])
def test_what_was_cut_off_is_no_failure_and_is_left_for_the_next_command(tmp_path, status):
    done = script("--dry", "sanitize", PYTHON=python_that_ends(tmp_path, status), TMPDIR=str(tmp_path))
    assert done.returncode == 3
    assert re.search(r"^sanitize: cut off at \d+ s, what it had is kept", done.stdout, re.MULTILINE)
    assert "benchmarks/gpu.sh --dry build sanitize" in done.stdout
    assert "failed" not in done.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(tmp_path)}
    command = ["bash", str(SCRIPT), "--dry", "ceilings", "sanitize", "ops"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        said = []
        while not said or not said[-1].startswith("== sanitize"):
            said.append(running.stdout.readline())
            assert said[-1], said
        os.killpg(running.pid, signal.SIGINT)
        rest = running.stdout.read()
    assert running.returncode == 3, rest
    assert "ceilings: ok" in rest
    assert f"go on: PYTHON={sys.executable} benchmarks/gpu.sh --dry build warm sanitize ops" in rest


def test_statuses_are_one_of_four():
    function = re.search(r"^worse\(\) \{.*?^\}", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[0]
    for statuses, expected in {"0 0": 0, "0 3": 3, "124 0": 3, "1 0": 1, "9 137": 4, "4 0": 4, "1 4": 4}.items():
        done = subprocess.run(
            ["bash", "-c", f"cut_off=3 both=4\n{function}\nworse {statuses}"], capture_output=True, text=True
        )
        assert done.stdout == f"{expected}\n", statuses


@pytest.mark.parametrize("minutes", ["", "nine", "-1"])
def test_minutes_are_a_number(minutes):
    done = script("--minutes", minutes)
    assert done.returncode == 2
    assert f"--minutes takes a number, such as 9; got '{minutes}'" in done.stderr


def test_every_goal_of_an_op_has_a_case_and_a_card_s_are_among_those_that_the_campaign_measures():
    """A goal that no case measures would stay "not yet measured" for ever."""
    pattern = "".join(re.findall(r"^goals\+?='([^']*)'", SCRIPT.read_text(), re.MULTILINE))
    for device in (torch.device("cuda"), torch.device("cpu")):
        cases = [case for _, module in modules(["ops"]) for case in module.cases(device, False)]
        if device.type == "cuda":
            cases = [case for case in cases if re.search(pattern, str(case))]
            cases += [case for _, module in modules(["launch"]) for case in module.cases(device, False)]
        records = [case.record() for case in cases]
        ops = {record["op"] for record in records}
        asked = [goal for goal in GOALS if goal.device == device.type and goal.op in ops]
        assert len(asked) > 10
        for goal in asked:
            assert goal.records(records), goal.text


def python_that_ends(folder, status):
    """A python that ends benchmarks.sanitize at once, with that status."""
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *benchmarks.sanitize*) exit {status};; esac\nexec {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_part_that_fails_does_not_stop_the_next_and_is_in_the_exit_status(tmp_path):
    broken = python_that_ends(tmp_path, 5)
    done = script("--dry", "sanitize", "tests", PYTHON=broken, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "sanitize: FAILED (5)" in done.stdout
    assert "tests: ok" in done.stdout
    assert "gpu.sh: failed: sanitize" in done.stderr


def test_unknown_part_lists_those_there_are():
    done = script("everything")
    assert done.returncode == 2
    assert f"no part 'everything'; there are {PARTS}" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do():
    done = script("ops")
    assert done.returncode == 2
    assert "no PyTorch that sees a GPU; --dry runs what needs none" in done.stderr


def test_help_is_the_header():
    done = script("--help")
    assert done.returncode == 0
    assert "benchmarks/gpu.sh [--dry] [--minutes M] [--again] [part ...]" in done.stdout
    assert "set -uo" not in done.stdout


def test_shell_is_clean():
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([checker, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
