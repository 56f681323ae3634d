"""Stages that overlap keep the order, pass on errors, stop with their consumer, and stay a few items ahead."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import closing

import pytest

from amt.infer.stages import DEPTH, background


def test_items_come_in_order_through_several_stages():
    doubled = (2 * i for i in background(range(500)))
    assert list(background(i + 1 for i in background(doubled))) == [2 * i + 1 for i in range(500)]


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield from range(3)
        raise ValueError("the fourth")

    seen = []
    with pytest.raises(ValueError, match="the fourth"):
        deque(map(seen.append, background(items())), maxlen=0)
    assert seen == [0, 1, 2]


def test_no_more_than_a_few_items_are_ahead():
    produced = []

    def items():
        for i in range(10_000):
            produced.append(i)
            yield i

    with closing(background(items())) as stage:
        for taken in range(3):
            assert next(stage) == taken
            time.sleep(0.2)
            assert len(produced) <= taken + 1 + DEPTH + 1


def test_a_consumer_that_stops_ends_the_threads():
    before, closed = threading.active_count(), []

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with closing(background(i for i in background(items()))) as stage:
        next(stage)
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.05)
    assert threading.active_count() == before
    assert closed == [True]
