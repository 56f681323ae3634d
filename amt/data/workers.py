"""Processes that put batches together, and how the batches reach the training process.

They come through shared memory (/dev/shm) as long as there is room, and through a pipe otherwise: containers often give
64 MB. PyTorch alone would move tensors in a thread of the worker whose errors nobody waits for, and the run would hang.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait

import numpy as np
import torch
from torch import Tensor

from amt.data.errors import DataError
from amt.hand.batch import Batch
from amt.hand.tensors import TensorFields

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 4  # batches a worker


class Workers:
    """A pool of processes that live from the first epoch on.

    Args:
        make: makes the batch of (rows, epoch); sent to the processes by pickling.
        count: processes.
        say: prints a line.
    """

    def __init__(self, make: Callable[[np.ndarray, int], Batch], count: int, say: Callable[[str], None] | None = None):
        self.count, self.say, self._plan = count, say or _print, _Plan()
        self._told = self._handled = self._died = False
        # spawn: a fork would copy the thread pools of PyTorch and OpenCV in whatever state they are, and hang.
        self._pool = torch.utils.data.DataLoader(
            _Batches(make),
            sampler=self._plan,
            batch_size=None,
            num_workers=count,
            prefetch_factor=PREFETCHED,
            persistent_workers=True,
            multiprocessing_context="spawn",
            worker_init_fn=_start_worker,
        )
        self._processes: list[multiprocessing.Process] = []

    def batches(self, plan: list[tuple[np.ndarray, int]]) -> Iterator[Batch]:
        """The batches of (rows, epoch), in order. The processes begin at once.

        Raises:
            DataError: the processes cannot be started, or one died.
        """
        self._plan.items = plan
        before = set(multiprocessing.active_children())
        try:
            made = iter(self._pool)
            self._tell_deaths_at_any_time()
        except OSError as error:
            raise DataError(f"data.workers: {self.count} processes cannot be started ({error}); take fewer") from error
        self._processes = self._processes or [p for p in multiprocessing.active_children() if p not in before]
        return self._received(made)

    def _received(self, made: Iterator[Batch | bytes]) -> Iterator[Batch]:
        while True:
            with self._deaths_told():
                batch = next(made, None)
            if batch is None:
                return
            if isinstance(batch, bytes):
                if not self._told:
                    self._told = True
                    self.say(
                        f"{SHARED_MEMORY} has too little room for the batches of {self.count} workers: they come through "
                        "pipes, which is slower (give the container more shared memory, or take fewer data.workers)"
                    )
                batch = pickle.loads(batch)
            yield batch

    def _tell_deaths_at_any_time(self) -> None:
        """PyTorch raises its error from a signal handler, in whatever the main thread does at that moment."""
        handler = signal.getsignal(signal.SIGCHLD)
        if self._handled or not callable(handler) or threading.current_thread() is not threading.main_thread():
            return
        self._handled = True
        pool = weakref.ref(self)  # the handler stays for good; the processes end with the pool

        def told(number: int, frame: object) -> None:
            workers = pool()
            if workers is None:
                handler(number, frame)
            elif not workers._died:  # PyTorch would raise again at the end of every other child process
                with workers._deaths_told():
                    handler(number, frame)

        signal.signal(signal.SIGCHLD, told)

    @contextmanager
    def _deaths_told(self) -> Iterator[None]:
        """Turns PyTorch's error about a process that died into one line."""
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:  # or a tensor was to be fetched from the dead process
            dead = self._dead()
            if not dead and isinstance(error, RuntimeError):
                raise
            self._died = True
            code = f" (exit code {dead[0].exitcode})" if dead else ""  # its connection may end before it does
            raise DataError(
                f"data.workers: a process died{code}, perhaps for want of memory; take fewer workers or smaller batches"
            ) from error

    def _dead(self) -> list[multiprocessing.Process]:
        """The processes that ended with an error; one that has just died may not have its exit code yet."""
        for _ in range(1 + len(self._processes)):
            # PyTorch raises a RuntimeError for each death, wherever the program is when the signal comes
            with suppress(RuntimeError):
                wait([process.sentinel for process in self._processes], timeout=1)
                break
        return [process for process in self._processes if process.exitcode]


class _Plan(torch.utils.data.Sampler):
    """What the processes are to make: (rows, epoch) of every batch."""

    def __init__(self):
        self.items: list[tuple[np.ndarray, int]] = []

    def __iter__(self):
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class _Batches(torch.utils.data.Dataset):
    """Batches by (rows, epoch), ready to be sent."""

    def __init__(self, make: Callable[[np.ndarray, int], Batch]):
        self.make = make

    def __getitem__(self, item: tuple[np.ndarray, int]) -> Batch | bytes:
        return to_send(self.make(*item))


def to_send(batch: TensorFields) -> Batch | bytes:
    """The batch with its tensors in shared memory; pickled where there is no room for it and as much again."""
    tensors = _tensors(batch)
    try:
        if shutil.disk_usage(SHARED_MEMORY).free > 2 * sum(tensor.nbytes for tensor in tensors) + (1 << 20):
            for tensor in tensors:
                tensor.share_memory_()
            return batch
    except (OSError, RuntimeError):
        pass  # there is none, or another process took the room in the meantime
    return pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)


def _tensors(batch: TensorFields) -> list[Tensor]:
    return [tensor for _, tensor in batch.named_tensors()]


def _start_worker(_: int) -> None:
    import cv2

    # Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM every process of the job: the parent answers them,
    # and may still want batches for its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_on_sigterm_of_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _end_on_sigterm_of_parent() -> None:
    """PyTorch sends SIGTERM to a worker that does not end by itself, for example because it waits for a full pipe."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
