"""What programs set before PyTorch loads: how long OpenMP's threads spin, and that freed memory is kept."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amt.startup import MEMORY, SPINS, bound_spin


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_the_spin_is_bounded_unless_the_user_has_chosen(monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bound_spin()
    assert {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ} == expected
    os.environ.pop("GOMP_SPINCOUNT", None)  # set by the function itself, so not monkeypatch's to take back


@pytest.mark.parametrize("module", ["amt.train", "amt.evaluate", "amt.infer"])
def test_every_program_does_so_first(tmp_path, module):
    """The value is read where a program ends early, without PyTorch."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "atexit.register(lambda: print('spins', os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules))\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert f"spins {SPINS} False" in done.stdout


FRESH_PAGES = """
import resource, sys
from amt.startup import keep_memory
if sys.argv[1] == "keep":
    keep_memory()

def fill():
    blocks = [b"x" * 20_000_000 for _ in range(3)]

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fill()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_the_next_large_block_lies_in_memory_that_was_used_before():
    environment = {name: value for name, value in os.environ.items() if name not in MEMORY}

    def fresh(word: str, **more) -> int:
        command = [sys.executable, "-c", FRESH_PAGES, word]
        done = subprocess.run(command, capture_output=True, text=True, env=environment | more, timeout=100)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert fresh("keep") < 8e6
    # glibc by itself, and a user's own choice
    assert fresh("leave") > 100e6
    assert fresh("keep", MALLOC_TRIM_THRESHOLD_="1000000") > 100e6
