"""The images are built by the script that `make test` runs; nothing of this checkout's builds gets into them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEPS = "bash docker/steps.sh"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_an_image_runs_the_steps_on_all_files(name):
    lines = (ROOT / "docker" / f"{name}.Dockerfile").read_text().splitlines()
    steps = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert steps[0] == "FROM"
    assert "COPY . ." in lines
    (run,) = [line for line in lines if STEPS in line]
    assert run.startswith("RUN ")
    assert lines.index("COPY . .") < lines.index(run)
    assert ("AMT_CUDA=on" in run) == (name == "cuda")


def test_make_test_runs_the_same_steps():
    shown = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True)
    assert STEPS in shown.stdout
    assert subprocess.run(["bash", "-n", "docker/steps.sh"], cwd=ROOT).returncode == 0


def test_no_build_of_this_checkout_gets_into_an_image():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "**/*.so"} <= set(ignored)
