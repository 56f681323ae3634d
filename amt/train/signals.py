"""Ends a run between two steps when the machine or the user asks for it."""

from __future__ import annotations

import signal
import threading


class Stopped(SystemExit):
    """The run was asked to end and its state is saved: status 0 after SIGTERM, 130 after SIGINT."""

    def __init__(self, signum: int, step: int):
        super().__init__(130 if signum == signal.SIGINT else 0)
        self.signum, self.step = signum, step

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: saved step {self.step}; the same command continues from it"


class StopRequest:
    """A block in which SIGTERM and SIGINT are noted in ``signum``; a second one ends the process as usual.

    Outside the main thread Python takes no signals: there nothing is noted.
    """

    def __init__(self):
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _note(self, signum: int, _) -> None:
        self.signum = signum
        self.__exit__()
