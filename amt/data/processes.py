"""Worker processes that do not outlive their program."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Ends this process as soon as the one that asked for it has ended, even by SIGKILL; for a worker's first call.

    A worker of a ProcessPoolExecutor waits for tasks on a pipe whose other end it holds itself, so that it never sees the
    end of its program, keeps its memory and waits for good.
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
