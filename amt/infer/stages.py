"""Stages of a run that work at the same time: decode, predict and draw, each on a thread, with short queues between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
DEPTH = 4  # items between two stages: memory does not grow with the length of a video
_END = object()


def background(items: Iterable[Item], depth: int = DEPTH, newest: bool = False) -> Iterator[Item]:
    """The items, in their order, produced by a thread of their own, at most ``depth`` of them ahead.

    With ``newest`` the thread does not wait for the consumer: it leaves the oldest of these items out.

    What the thread raises is raised here, after the items before it. Where the consumer stops, the thread stops at its next item,
    and ``items`` is closed.
    """
    line: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple, drop: bool = False) -> bool:
        while not stopped.is_set():
            try:
                line.put(item, timeout=0 if drop else 0.1)
                return True
            except queue.Full:
                if drop:
                    with suppress(queue.Empty):  # the consumer took it meanwhile
                        line.get_nowait()
        return False

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                if not put((item, None), newest):
                    break
            put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            if hasattr(source, "close"):
                source.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = line.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)  # s; a camera that gives no picture must not keep the program
