"""What is shipped: the source distribution builds a wheel, and a machine without a C++ compiler can still install."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def copied(folder: Path) -> Path:
    """The files that git tracks, in a folder of their own: building must not write into this checkout."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder


def pip(*arguments, env=None):
    command = [sys.executable, "-m", "pip", "-q", "--no-cache-dir", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    source = copied(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("dist")
    code = f"import setuptools.build_meta as b; print(b.build_sdist({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture
def without_compiler(tmp_path):
    """An environment whose PATH holds this interpreter's tools and no C++ compiler."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cmake", "ninja", "git"):
        found = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        if found:
            (tools / name).symlink_to(found)
    return {k: v for k, v in os.environ.items() if k != "CXX"} | {"PATH": str(tools)}


def test_sdist_holds_all_of_csrc_and_what_builds_it(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tracked = subprocess.run(
        ["git", "ls-files", "csrc", "amt"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md", *tracked} <= names


@pytest.mark.slow
def test_wheel_from_the_sdist_holds_the_native_library_and_its_data(sdist, tmp_path):
    done = pip(
        "wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path, sdist, env=os.environ | {"AMT_CUDA": "off"}
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("amt-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "amt/_native.so" in names
    tracked = subprocess.run(["git", "ls-files", "amt"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert set(tracked) <= names


def test_editable_install_without_a_compiler_succeeds_and_says_what_is_off(tmp_path, without_compiler):
    source = copied(tmp_path / "source")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", venv], check=True)
    # the packages of the environment that runs this test, in a venv that may be written to
    (site,) = venv.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "here.pth").write_text("\n".join(here))
    python = venv / "bin" / "python"
    command = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "--no-cache-dir",
        "-e",
        source,
    ]
    done = subprocess.run(command, env=without_compiler, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (source / "amt" / "_native.so").exists()
    shown = subprocess.run(
        [python, "-m", "amt.kernels"], cwd=tmp_path, env=without_compiler, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "install a C++ compiler" in shown.stdout


def test_failing_compiler_ends_the_installation(tmp_path, without_compiler):
    source = copied(tmp_path / "source")
    broken = Path(without_compiler["PATH"]) / "c++"
    broken.write_text("#!/bin/sh\necho this compiler is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    done = pip(
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        tmp_path,
        source,
        env=without_compiler | {"CXX": str(broken)},
    )
    assert done.returncode != 0
    assert "this compiler is broken" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("AMT_CUTLASS=1", "AMT_CUTLASS must be one of on, off; got 1"),
        ("AMT_CUDA=yes", "AMT_CUDA must be one of auto, on, off; got yes"),
    ],
)
def test_a_switch_of_the_build_that_says_nothing_is_refused(tmp_path, option, message):
    """AMT_CUTLASS=1 would build without CUTLASS and say nothing."""
    cmake = shutil.which("cmake", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if cmake is None:
        pytest.skip("needs cmake")
    done = subprocess.run([cmake, "-S", ROOT, "-B", tmp_path, f"-D{option}"], capture_output=True, text=True)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
