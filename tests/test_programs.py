"""Every program tells what is wrong in one line, with its name and status 2, before PyTorch loads."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amt.errors import UsageError, UserError
from amt.startup import Parser, check_variables, run_program

PROGRAMS = (
    "amt.train",
    "amt.evaluate",
    "amt.infer",
    "amt.model",
    "amt.kernels",
    "amt.data.synthetic",
    "amt.data.index",
    "amt.data.cache",
    "amt.hand.bake",
    "amt.physics",
    "amt.debug",
    "amt.export",
)
HEAVY = ("torch", "hydra", "cv2", "scipy", "matplotlib", "PIL")  # each takes more than the rest together


def run(folder: Path, module: str, *words: str, **variables: str) -> tuple[int, str, str, list[str]]:
    """Status, stdout, stderr and the heavy packages that were imported, which an exit handler writes down."""
    report = f"import atexit, sys; atexit.register(lambda: open({str(folder / 'heavy')!r}, 'w').write(' '.join("
    (folder / "sitecustomize.py").write_text(report + f"n for n in {HEAVY} if n in sys.modules)))")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AMT_")}
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[1]}", **variables}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr, (folder / "heavy").read_text().split()


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_loads_nothing_heavy(tmp_path, module):
    status, out, err, heavy = run(tmp_path, module, "--help")
    assert (status, err, heavy) == (0, "", [])
    assert f"python -m {module}" in out


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("amt.train", ["data.root=/nowhere"], "data.root=/nowhere: no such folder; give the folder of the set"),
        ("amt.train", ["train.stepz=3"], "train.stepz: no such key"),
        ("amt.train", ["~train.steps"], "cannot read '~train.steps': no key can be left out; give it a value"),
        ("amt.train", ["data.root"], "cannot read 'data.root': expected key=value, data.root=VALUE"),
        ("amt.train", ["--multirum"], "--multirum: no such option; see python -m amt.train --help"),
        ("amt.evaluate", [], "expected the folder of a checkpoint; see python -m amt.evaluate --help"),
        ("amt.evaluate", ["/nowhere"], "/nowhere: no such checkpoint folder"),
        ("amt.infer", ["/nowhere", "x.jpg"], "/nowhere: no such checkpoint folder"),
        ("amt.infer", ["a", "--sides", "left"], "see python -m amt.infer --help"),
        (
            "amt.infer",
            ["-hand.jpg"],
            "-hand.jpg: a word that begins with - is an option; write ./-hand.jpg for the file",
        ),
        ("amt.model", ["huge"], "size must be one of tiny, small, base, large; got 'huge'"),
        ("amt.kernels", ["cpu"], "invalid choice: 'cpu' (choose from 'tune'); see python -m amt.kernels --help"),
        ("amt.data.synthetic", ["file"], "file: is a file; name a folder to render into"),
        ("amt.data.synthetic", ["."], ".: is not empty and holds no synthetic.json"),
        ("amt.data.synthetic", ["/proc/foo"], "/proc/foo: cannot be written"),
        ("amt.data.synthetic", ["set", "--frames", "0"], "frames must be at least 1; got 0"),
        (
            "amt.data.synthetic",
            ["set", "--objects", "my.obj"],
            "my.obj: no such folder or file; --objects takes a folder of meshes, or mesh files",
        ),
        ("amt.data.synthetic", ["set", "--workers", "0"], "--workers must be at least 1; got 0"),
        ("amt.data.index", ["/nowhere"], "/nowhere: no such folder; give the folder of a set, or render one"),
        ("amt.data.index", ["file"], "file: is a file, not the folder of a set; give the folder of a set"),
        ("amt.data.index", ["empty"], "empty: is an empty folder; give the folder of a set, or render one"),
        (
            "amt.data.index",
            ["."],
            "holds no set, neither DexYCB's layout (20200709-subject-01/<date_time>/meta.yml) nor HO-3D's",
        ),
        ("amt.data.index", [], "the following arguments are required: FOLDER; see python -m amt.data.index --help"),
        ("amt.data.cache", ["limit", "much"], "limit: expected a size such as 50GB, got 'much'"),
        ("amt.hand.bake", ["--people", "3"], "--people must be at least 50"),
        ("amt.physics", ["/nowhere"], "/nowhere: no such folder; give the folder of a set, or render one"),
        ("amt.physics", [".", "--limit", "0"], "--limit must be at least 1; got 0"),
        ("amt.debug", [], "expected the folder of a checkpoint; see python -m amt.debug --help"),
        ("amt.debug", ["/nowhere"], "/nowhere: no such checkpoint folder"),
        (
            "amt.export",
            [],
            "the following arguments are required: CHECKPOINT, --to, --out; see python -m amt.export --help",
        ),
        ("amt.export", ["/nowhere", "--to", "aoti", "--out", "set"], "/nowhere: no such checkpoint folder"),
    ],
)
def test_a_wrong_word_is_one_line_before_anything_heavy(tmp_path, module, words, message):
    (tmp_path / "file").touch()
    (tmp_path / "-hand.jpg").touch()
    (tmp_path / "empty").mkdir()
    status, out, err, heavy = run(tmp_path, module, *words)
    assert (status, out, heavy) == (2, "", [])
    assert err.startswith(f"{module}: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_wrong_variable_is_one_line_in_every_program(tmp_path, module):
    for variables, message in (
        ({"AMT_KERNELS": "foo"}, "AMT_KERNELS must be one of auto, reference, native, triton, cuda, got 'foo'"),
        ({"AMT_CPU_ISA": "avx2"}, "AMT_CPU_ISA must be one of 0, 1, 2, 3, got 'avx2'"),
        ({"AMT_KERNEL": "native"}, "AMT_KERNEL means nothing to AMT; write AMT_KERNELS, or unset it"),
    ):
        status, out, err, heavy = run(tmp_path, module, **variables)
        assert (status, out, heavy) == (2, "", [])
        assert err == f"{module}: the environment variable {message}\n"


def test_variables_of_others_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("AMT_HOME", "/somewhere")
    check_variables()
    monkeypatch.setenv("AMT_NATIVE_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(UsageError, match=r"AMT_NATIVE_LIBRARY names .*none\.so, which does not exist"):
        check_variables()
    check_variables(but=("AMT_NATIVE_LIBRARY",))


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (UserError("the file\nis wrong"), 2, "amt.x: the file is wrong\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.npz"),
            2,
            "amt.x: out/a.npz: No space left on device; free space",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "amt.x: No space left on device; free space, or choose"),
        (
            OSError(errno.EACCES, "Permission denied", "a"),
            2,
            "amt.x: a: Permission denied; check the path and its perm",
        ),
        (KeyboardInterrupt(), 130, "amt.x: interrupted; the rest stays\n"),
    ],
)
def test_what_a_program_tells(capsys, raised, status, line):
    def main():
        raise raised

    assert run_program("amt.x", main, "interrupted; the rest stays") == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_a_package_that_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra", None)

    def main():
        import hydra  # noqa: F401

    assert run_program("amt.x", main) == 2
    assert capsys.readouterr().err.startswith("amt.x: the package hydra is not installed; pip install -e . brings")


def test_a_fault_of_the_code_is_no_fault_of_the_user():
    def main():
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast"):
        run_program("amt.x", main)


def test_the_end_of_a_pipe_is_no_error(tmp_path):
    code = (
        "import sys; from amt.startup import run_program\nsys.exit(run_program('amt.x', lambda: print('x\\n' * 10**6)))"
    )
    command = f'{sys.executable} -c "$CODE" | head -1'
    environment = {**os.environ, "CODE": code, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("x\n", "")


def test_a_parser_names_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = Parser(prog="python -m amt.x")
    parser.add_argument("files", nargs="*")
    with pytest.raises(UsageError, match=r"unrecognized arguments: -x\.jpg; see python -m amt\.x --help"):
        parser.parse_args(["-x.jpg"])
    (tmp_path / "-x.jpg").touch()
    with pytest.raises(UsageError, match=r"write \./-x\.jpg for the file"):
        parser.parse_args(["-x.jpg"])
    assert parser.parse_args(["./-x.jpg"]).files == ["./-x.jpg"]
