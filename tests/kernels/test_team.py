"""The team of threads that csrc's CPU kernels share, run alone on real threads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_phase_of_a_team_begins_when_the_one_before_is_done(tmp_path):
    here = Path(__file__).parent
    command = ["g++", "-std=c++20", "-O2", "-pthread", f"-I{here.parents[1] / 'csrc'}", here / "team_of_threads.cpp"]
    subprocess.run([*command, "-o", tmp_path / "team"], check=True)
    done = subprocess.run([tmp_path / "team"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0 wrong\n")
