"""Ends a run between two steps when the machine or the user asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from amt.train.ranks import Echo, RankLost


class Stopped(SystemExit):
    """The run was asked to end and what it learned is saved: status 0 after SIGTERM, 130 after SIGINT."""

    def __init__(self, signum: int, step: int | None = None):
        super().__init__(130 if signum == signal.SIGINT else 0)
        self.signum, self.step = signum, step

    def __str__(self) -> str:
        saved = "no new step to save" if self.step is None else f"saved step {self.step}"
        return f"{signal.Signals(self.signum).name}: {saved}; the same command continues from it"


class StopRequest:
    """A block in which SIGTERM and SIGINT end the run: at once by :class:`Stopped`, or between two steps.

    Inside :meth:`between_steps` a signal is noted in ``signum``. A second one ends the process as usual. Outside the main
    thread Python takes no signals: there nothing is noted.

    Args:
        launched: by torchrun, which passes on a signal that the process has got already: a second one is ignored.
    """

    def __init__(self, launched: bool = False):
        self.launched = launched
        self.signum: int | None = None
        self._before: dict[int, object] = {}
        self._deferred = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        self._restore()
        if self.signum is not None and kind in (RankLost, Echo):  # another rank has ended by its signal already
            raise Stopped(self.signum)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """A block that looks at ``signum`` itself, where it is safe to end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _note(self, signum: int, _) -> None:
        if self.signum is not None:
            return
        self.signum = signum
        if not self.launched:
            self._restore()
        if not self._deferred:
            raise Stopped(signum)
