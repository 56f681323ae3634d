"""csrc's CPU threads: the team alone, compiled with its own program, and the ops that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from amt.kernels import RefineWeights, _native, frame_pointnet, hand_frames, refine, use

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_missing = _native.missing("hand_frames", "cpu")
needs_native = pytest.mark.skipif(_missing is not None, reason=str(_missing))


def _compile(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    sources = [HERE / "cpu_team_on_host.cpp", ROOT / "csrc/common/cpu_team.cpp"]
    command = ["g++", "-std=c++20", *flags, "-pthread", f"-I{ROOT / 'csrc'}", *sources, "-o", folder / "team"]
    return subprocess.run(command, capture_output=True, text=True)


def _expect_nothing_wrong(program: Path, scenario: str) -> None:
    done = subprocess.run([program, scenario], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0 wrong\n"), done.stdout + done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("team")
    done = _compile(folder, "-O2")
    assert done.returncode == 0, done.stderr
    return folder / "team"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("sanitized")
    done = _compile(folder, "-O1", "-g", "-fsanitize=thread")
    if "cannot find" in done.stderr and "tsan" in done.stderr:
        pytest.skip("this g++ has no thread sanitizer")
    assert done.returncode == 0, done.stderr
    return folder / "team"


@pytest.mark.parametrize(
    "scenario",
    [
        "phases",
        "sizes",
        "short_lists",
        "exceptions",
        "callers",
        "forks",
        "no_threads",
        "exit",
        "lent_threads",
        "late_threads",
    ],
)
def test_team(scenario, program):
    _expect_nothing_wrong(program, scenario)


@pytest.mark.parametrize("scenario", ["phases", "short_lists", "exceptions", "callers", "lent_threads"])
def test_team_has_no_data_race(scenario, sanitized):
    _expect_nothing_wrong(sanitized, scenario)


def _results() -> list[torch.Tensor]:
    """Outputs and gradients of the three ops, each large enough for several threads."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0, shift: tuple[float, ...] = (0.0,)) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=generator) + torch.tensor(shift)).requires_grad_()

    results = []
    with use("native"):
        joints = normal(700, 21, 3, scale=0.05)
        results += hand_frames(joints)
        results += torch.autograd.grad([r.square().sum() for r in results], joints)

        origins, rotations = (t.detach() for t in hand_frames(joints[:5]))
        weights = [normal(64, 3), normal(22, 64), normal(128, 64, scale=0.1), normal(128)]
        features = frame_pointnet(normal(5, 300, 3, scale=0.05), origins, rotations, *weights)
        results += [features, *torch.autograd.grad(features.square().sum(), weights)]

        joints = normal(5, 21, 3, scale=0.06, shift=(0.0, 0.0, 0.7))
        camera = torch.tensor([[500.0, 0, 112], [0, 500, 112], [0, 0, 1]]).repeat(5, 1, 1)
        maps = [normal(5, side, side, 64) for side in (8, 16)]
        weights = [normal(2, 256, 131, scale=0.1), normal(2, 21, 256), normal(2, 3, 256, scale=0.01), normal(2, 3)]
        steps = refine(joints, camera, maps, RefineWeights(*weights), image_size=(224, 224))
        inputs = [joints, *maps, *weights]
        results += [steps, *torch.autograd.grad(steps.square().sum(), inputs)]
    return [r.detach() for r in results]


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_native
def test_the_number_of_threads_changes_no_bit(set_threads):
    set_threads(1)
    expected = _results()
    for threads in (2, 5):
        set_threads(threads)
        for _ in range(3):
            assert all(map(torch.equal, _results(), expected)), threads


@needs_native
def test_two_threads_of_a_program_call_ops_at_once(set_threads):
    set_threads(4)
    expected = _results()
    right = []

    def call() -> None:
        for _ in range(5):
            right.append(all(map(torch.equal, _results(), expected)))

    threads = [threading.Thread(target=call) for _ in range(2)]
    with use("native"):  # process-wide: without it a thread could restore the other's choice at the end of the block
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 10


FORKED = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, Dataset
from amt.kernels import hand_frames, use

torch.set_num_threads(4)
joints = torch.randn(400, 21, 3)  # PyTorch's own threads do not outlive a fork; it compares so few numbers without them

def frames():
    torch.set_num_threads(4)  # a DataLoader's worker begins with one
    with use("native"):
        return hand_frames(joints)[0]

class Hands(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return frames()

expected = frames()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    os._exit(0 if torch.equal(frames(), expected) else 1)
assert os.waitpid(child, 0)[1] == 0, "os.fork"
for batch in DataLoader(Hands(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60):
    assert torch.equal(batch, expected), "DataLoader"
assert torch.equal(frames(), expected), "the parent afterwards"
print("right")
"""


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ops_run_in_forked_processes():
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", FORKED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
