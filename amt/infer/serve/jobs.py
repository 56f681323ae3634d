"""The one thread that runs the model, and the places of those who may wait for it.

Requests wait in one line. Pictures that wait are taken together, as one batch; a clip comes back into the line after each of its
frames, so that nobody waits for a whole clip.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from amt.infer.serve.memory import release_memory

RELEASE_S = 5.0  # between two calls that give freed memory back to the system


class Replaced(Exception):
    """A newer frame of the same webcam took this one's place in the line."""


class Closed(Exception):
    """The server ends."""


@dataclass
class Task:
    """What waits in the line."""

    work: Callable[[Sequence[Any]], Iterable[Any]]  # gives a result or an Exception for each of its items
    item: Any
    pixels: int  # that the item takes when it is decoded
    key: Hashable  # None, or whose newest frame this is
    future: Future = field(default_factory=Future)


class Worker:
    """A thread with a line of tasks; tasks of the same ``work`` that wait are given to it together.

    Args:
        most: items of one call.
        most_pixels: of the items of one call, where they are more than one.
    """

    def __init__(self, most: int, most_pixels: int):
        self.most, self.most_pixels = most, most_pixels
        self._line: deque[Task] = deque()
        self._changed = threading.Condition()
        self._released = time.monotonic()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="amt-serve", daemon=True)
        self._thread.start()

    def submit(
        self,
        work: Callable[[Sequence[Any]], Iterable[Any]],
        item: Any,
        pixels: int = 0,
        key: Hashable = None,
    ) -> Future:
        """Puts an item in the line; a waiting task of the same ``key`` gives up its place, and ends with :class:`Replaced`."""
        task = Task(work, item, pixels, key)
        with self._changed:
            if self._closed:
                task.future.set_exception(Closed())
                return task.future
            older = next((k for k, t in enumerate(self._line) if key is not None and t.key == key), None)
            if older is None:
                self._line.append(task)
            else:
                old, self._line[older] = self._line[older], task
                if old.future.set_running_or_notify_cancel():
                    old.future.set_exception(Replaced())
            self._changed.notify()
        return task.future

    def call(self, function: Callable[[], Any]) -> Future:
        """Puts a call in the line."""
        return self.submit(_each, function)

    def close(self) -> None:
        """Ends after the work that is being done; what waits ends with :class:`Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    waiting, self._line = self._line, deque()
                    break
                batch = self._take()
            batch = [task for task in batch if task.future.set_running_or_notify_cancel()]
            if batch:
                self._do(batch)
                if time.monotonic() - self._released > RELEASE_S:
                    release_memory()
                    self._released = time.monotonic()
        for task in waiting:
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(Closed())

    def _take(self) -> list[Task]:
        """The first task, and those behind it that go with it."""
        first = self._line.popleft()
        batch, pixels, others = [first], first.pixels, deque()
        for task in self._line:
            fits = len(batch) < self.most and pixels + task.pixels <= self.most_pixels
            if task.work == first.work and fits:
                batch.append(task)
                pixels += task.pixels
            else:
                others.append(task)
        self._line = others
        return batch

    def _do(self, batch: list[Task]) -> None:
        done = 0
        try:
            for task, result in zip(batch, batch[0].work([task.item for task in batch])):
                done += 1
                if isinstance(result, BaseException):
                    task.future.set_exception(result)
                else:
                    task.future.set_result(result)
            if done < len(batch):
                raise RuntimeError(f"{done} results for {len(batch)} items")
        except Exception as error:
            for task in batch[done:]:
                task.future.set_exception(error)


def _each(functions: Sequence[Callable[[], Any]]) -> Iterable[Any]:
    for function in functions:
        try:
            yield function()
        except Exception as error:
            yield error


class Places:
    """A count of uploads that are received, wait or are worked on; for one thread, the server's."""

    def __init__(self, most: int):
        self.most, self.taken = most, 0

    def take(self) -> bool:
        """Whether there was one left; it is taken."""
        if self.taken >= self.most:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """Makes room for another upload."""
        self.taken -= 1
