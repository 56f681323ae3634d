"""Worker processes: shared memory that is too small is gone around, a process that dies ends the run with one line."""

import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch

from amt.data import workers
from amt.data.config import CropConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.loader import CropDataset, Loader

SMALL = CropConfig(size=32, num_points=32)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def dataset(tiny_set, tmp_path_factory):
    reader = DexYCB(tiny_set, "s0", "train")
    return CropDataset(build_cache(reader, SMALL, tmp_path_factory.mktemp("crops"), progress=False), SMALL)


def equal(a, b) -> bool:
    pairs = zip(workers._tensors(a), workers._tensors(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_goes_through_shared_memory_only_where_it_fits(dataset, monkeypatch):
    batch = dataset.batch(np.arange(4))
    size = sum(tensor.nbytes for tensor in workers._tensors(batch))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, size))
    sent = workers.to_send(dataset.batch(np.arange(4)))
    assert isinstance(sent, bytes)
    assert equal(pickle.loads(sent), batch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 100 * size + (1 << 20)))
    sent = workers.to_send(dataset.batch(np.arange(4)))
    assert all(tensor.is_shared() for tensor in workers._tensors(sent))
    assert equal(sent, batch)

    def full(self):
        raise RuntimeError("unable to allocate shared memory")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # taken by another process after the look
    assert isinstance(workers.to_send(dataset.batch(np.arange(4))), bytes)


SCRIPT = """
import sys
from amt.data.config import CropConfig
from amt.data.crop_cache import CropCache
from amt.data.loader import CropDataset, Loader

if __name__ == "__main__":
    config = CropConfig(size=32, num_points=32)
    loader = Loader(CropDataset(CropCache(sys.argv[1]), config), 16, workers=2)
    for epoch in range(2):
        loader.set_epoch(epoch)
        print(sum(len(batch.index) for batch in loader))
"""


@pytest.mark.parametrize("room", ["64k", "1m"])
def test_a_run_with_little_shared_memory_ends_well_and_says_so(dataset, tmp_path, room):
    inside = f"mount -t tmpfs -o size={room} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True).returncode:
        pytest.skip("a mount of one's own takes user namespaces, which this machine does not allow")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # The process keeps its own /dev/shm; a limit on the time turns a hang into a failure.
    command = f"{inside} && exec {sys.executable} {script} {dataset.cache.folder}"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=300, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(len(dataset))] * 2
    assert run.stderr.count("too little room for the batches of 2 workers") == 1


DEATH = """
import os, signal, sys
from amt.data.config import CropConfig
from amt.data.crop_cache import CropCache
from amt.data.loader import CropDataset, Loader

if __name__ == "__main__":
    config = CropConfig(size=32, num_points=32)
    loader = Loader(CropDataset(CropCache(sys.argv[1]), config), 4, workers=1)
    batches = iter(loader)
    next(batches)
    (process,) = loader._pool._processes
    os.kill(process.pid, signal.SIGKILL)
    list(batches)  # more than what the process had made in advance
    print("read on")
"""


def test_the_death_of_a_process_is_one_line_and_no_hang(dataset, tmp_path):
    """In a program of its own: PyTorch raises from a signal handler, wherever the program is at that moment."""
    script = tmp_path / "death.py"
    script.write_text(DEATH)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, script, dataset.cache.folder]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert run.returncode != 0
    assert "read on" not in run.stdout
    told = [line for line in run.stderr.splitlines() if line.startswith("amt.data.errors.DataError: data.workers:")]
    assert told, run.stderr
    assert all("a process died" in line and "fewer workers" in line for line in told)


def test_the_processes_end_with_their_loader(dataset):
    before = set(multiprocessing.active_children())
    loader = Loader(dataset, 16, workers=2)
    batches = iter(loader)
    next(batches)
    mine = set(multiprocessing.active_children()) - before
    assert len(mine) == 2
    del loader, batches
    gc.collect()
    for process in mine:
        process.join(30)
        assert not process.is_alive()
