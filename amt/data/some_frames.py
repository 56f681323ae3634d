"""A reader of some of another reader's frames: for runs on a few pictures, and for a look at a large set."""

from __future__ import annotations

from typing import Any

import numpy as np

from amt.data.reader import Reader
from amt.data.set_folder import Frame


class SomeFrames:
    """At most ``count`` frames of a reader, spread evenly over it; all else is the reader's own. Frames keep their index.

    Args:
        span: so many frames in a row stay together, for windows.
    """

    def __init__(self, reader: Reader, count: int, span: int = 1):
        self._reader, self._count, self._span = reader, count, span
        self._chosen = spread_evenly(len(reader), count, span)
        self.limit = [count, span]  # part of the crop cache's name

    def __getattr__(self, name: str) -> Any:
        if name == "_reader":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._reader, name)

    def __reduce__(self):
        return SomeFrames, (self._reader, self._count, self._span)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Frame:
        """Labels of one sample. Raises BrokenFrame."""
        return self._reader[int(self._chosen[index])]


def spread_evenly(total: int, count: int, span: int = 1) -> np.ndarray:
    """At most ``count`` numbers of 0 to ``total`` - 1 in order: groups of ``span`` in a row, the groups spread evenly."""
    if count >= total:
        return np.arange(total)
    groups = max(1, count // span)
    starts = np.arange(groups) * max(total - span, 0) // max(groups - 1, 1)
    return np.unique(starts[:, None] + np.arange(min(span, total)))
