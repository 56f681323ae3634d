"""Threads for work that releases the interpreter's lock: OpenCV's calls and NumPy's large copies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Calls ``work(k)`` for k = 0 … count - 1, each once, by as many threads as PyTorch's ops have; work stealing.

    The calling thread works, too: it does alone what no other thread has begun, so that a thread without a core is not
    waited for. What ``work(k)`` does must not depend on the order. An exception of one call is raised after all threads stopped.
    """
    numbers = iter(range(count))

    def some() -> None:
        try:
            for k in numbers:
                work(k)
        finally:
            for _ in numbers:
                pass  # an exception: no thread does the rest

    helpers = min(torch.get_num_threads(), count) - 1
    begun = [_pool(helpers).submit(some) for _ in range(helpers)] if helpers > 0 else []
    try:
        some()
    finally:
        errors = [future.exception() for future in begun if not future.cancel()]
    for error in filter(None, errors):
        raise error


def ahead(pool: Executor, count: int, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``work(item)`` of each item, in order, as ``map`` gives them; ``count`` items are begun before they are asked for."""
    begun = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


@lru_cache(maxsize=4)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "amt-data")
