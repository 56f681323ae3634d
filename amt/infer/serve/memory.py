"""Freed memory goes back to the system: glibc keeps holes between blocks that live, and a server would grow for hours."""

from __future__ import annotations

import ctypes
from functools import cache


def release_memory() -> None:
    """Gives whole pages that nobody uses back; does nothing where the C library is not glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
