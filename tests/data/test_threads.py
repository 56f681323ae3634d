"""Work in threads: everything once, errors come out, and no more is begun ahead than was said."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from amt.data.files import load_npz
from amt.data.threads import ahead, in_threads


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_call_is_made_once(threads):
    done = []
    in_threads(done.append, 500)
    assert sorted(done) == list(range(500))
    in_threads(done.append, 0)
    assert len(done) == 500


def test_as_many_threads_work_as_pytorch_has(threads):
    """Each call waits until all threads are in one: with fewer, the barrier would break."""
    barrier, seen = threading.Barrier(threads, timeout=60), set()

    def work(_):
        barrier.wait()
        seen.add(threading.get_ident())

    in_threads(work, threads)
    assert len(seen) == threads


def test_an_error_ends_the_work_and_comes_out(threads):
    done = []

    def work(k):
        if k == 3:
            raise ValueError("broken cut")
        done.append(k)

    with pytest.raises(ValueError, match="broken cut"):
        in_threads(work, 100_000)
    assert 3 not in done
    assert len(done) < 99_999


def test_an_error_in_another_thread_ends_the_work(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    caller, raised, done = threading.get_ident(), threading.Event(), []

    def work(k):
        if threading.get_ident() != caller:
            raised.set()
            raise ValueError("broken cut")
        assert raised.wait(60)
        time.sleep(0.002)
        done.append(k)

    with pytest.raises(ValueError, match="broken cut"):
        in_threads(work, 1000)
    assert len(done) < 900


def test_results_come_in_order_and_few_are_begun_ahead():
    begun = []

    def work(k):
        begun.append(k)
        return -k

    with ThreadPoolExecutor(3) as pool:
        results = ahead(pool, 5, work, range(100))
        assert [next(results) for _ in range(10)] == [-k for k in range(10)]
        assert len(begun) <= 15
        results.close()
    assert len(begun) <= 15
    with ThreadPoolExecutor(2) as pool:
        assert list(ahead(pool, 50, work, range(7))) == [-k for k in range(7)]


@pytest.fixture
def many_switches():
    """Garbage collections are many, and each lets another thread run: also in the middle of a call into C."""

    def let_others_run(*_):
        time.sleep(0)

    threshold = gc.get_threshold()
    gc.callbacks.append(let_others_run)
    gc.set_threshold(5, 1000, 1000)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks.remove(let_others_run)


def test_threads_read_whole_labels_at_a_time(tmp_path, many_switches):
    """Python 3.11's ast, which NumPy reads headers by, fails where two threads use it at once."""
    path, names = tmp_path / "labels.npz", tuple("abcdefgh")
    np.savez(path, **{name: np.zeros((1, 21, 3), np.float32) for name in names})
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: load_npz(path, names), range(300)):
            assert found.keys() == set(names)
