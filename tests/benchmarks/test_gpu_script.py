"""benchmarks/gpu.sh as far as it goes without a GPU: --dry runs every part on the CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.results import ROOT, load

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def script(*arguments, **variables):
    """Runs it without a limit of this test's own: the script ends each of its parts in time, however slow the machine is."""
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(["bash", str(SCRIPT), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_dry_run_does_every_part_and_writes_results_outside_the_repository(tmp_path):
    before = {path.name for path in (ROOT / "benchmarks" / "results").glob("*")}
    done = script("--dry", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("versions", "build", "tests", "sanitize", "ceilings", "ops", "model", "train"):
        assert re.search(rf"^{part}: ok, \d+ s$", done.stdout, re.MULTILINE), part
    results = Path(re.search(r"^results: (\S+);", done.stdout, re.MULTILINE)[1])
    assert tmp_path in results.parents
    data = load(results)
    assert {"attention", "encoder", "model", "training step"} <= {r["op"] for r in data["records"]}
    assert all(r["quick"] and "failed" not in r for r in data["records"])
    assert data["ceilings"]["copy_gb_s"] > 0
    assert {path.name for path in (ROOT / "benchmarks" / "results").glob("*")} == before


def test_one_part_runs_alone(tmp_path):
    done = script("--dry", "ceilings", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("== ")] == [
        "== ceilings (at most 3600 s)",
        "== summary",
    ]


def test_tables_are_written_outside_the_repository_and_the_goals_measured(tmp_path):
    done = script("--dry", "attention", "launch", "encoder", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    written = sorted(str(path) for path in tmp_path.glob("*/*/tables/cpu.json"))
    assert [path.split("/")[-3] for path in written] == ["attention", "block"]
    assert all(f"written: {path}" in done.stdout for path in written)
    data = load(Path(re.search(r"^results: (\S+);", done.stdout, re.MULTILINE)[1]))
    found = {(r["op"], r["pass"]) for r in data["records"]}
    on_the_caller = ("hand_frames", "forward+backward, autograd on the caller's thread")
    assert {on_the_caller, ("encoder", "forward"), ("encoder fp8", "forward")} <= found
    assert all("failed" not in r for r in data["records"])
    block = json.loads(Path(written[1]).read_text())["rows"][0]["ms"]
    assert set(block) == {"stock", "fused", "fused_gelu", "fused_tanh"}


def test_part_that_fails_does_not_stop_the_next_and_is_in_the_exit_status(tmp_path):
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase "$*" in *benchmarks.sanitize*) exit 3;; esac\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    done = script("--dry", "sanitize", "tests", PYTHON=str(broken), TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "sanitize: FAILED (3)" in done.stdout
    assert "tests: ok" in done.stdout
    assert "gpu.sh: failed: sanitize" in done.stderr


def test_unknown_part_lists_those_there_are():
    done = script("everything")
    assert done.returncode == 2
    there = "versions build tests sanitize ceilings warm ops model train attention launch encoder data"
    assert f"no part 'everything'; there are {there}" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do():
    done = script("ops")
    assert done.returncode == 2
    assert "no PyTorch that sees a GPU; --dry runs what needs none" in done.stderr


def test_help_is_the_header():
    done = script("--help")
    assert done.returncode == 0
    assert "benchmarks/gpu.sh [--dry] [part ...]" in done.stdout
    assert "set -uo" not in done.stdout


def test_shell_is_clean():
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([checker, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
