"""Without the extra, amt.physics imports, and its first use tells the remedy in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = "import sys; sys.modules.update(dict.fromkeys(('mujoco', 'coacd', 'manifold3d')))\n"  # import raises


def run(code, tmp_path):
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_missing_extra_is_one_line_with_the_remedy(tmp_path):
    code = """
from amt import physics
from amt.data.meshes import box_mesh
box = physics.ObjectBody(*box_mesh((0.1, 0.1, 0.1)))
try:
    box.solid
except physics.MissingExtra as error:
    print(error)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "amt.physics: manifold3d is not installed; pip install amt[physics]\n"


@pytest.mark.parametrize("words", [["--help"], ["/nowhere"]])
def test_the_command_answers_before_anything_is_loaded(tmp_path, words):
    done = run(f"from amt.physics.__main__ import main; sys.exit(main({words}))", tmp_path)
    expected = (
        (0, "") if words == ["--help"] else (2, "amt.physics: /nowhere: no such folder; give the folder of a set")
    )
    assert done.returncode == expected[0]
    assert done.stderr.startswith(expected[1])
    assert done.stderr.count("\n") <= 1
