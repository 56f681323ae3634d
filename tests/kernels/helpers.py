"""What the kernels' tests share: which implementations of an op run here."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from amt.kernels import _backend, _native, _triton
from amt.kernels.testing import SLACK, assert_error_rule, relative_error

__all__ = [
    "SLACK",
    "Runs",
    "assert_error_rule",
    "compiled",
    "implementations",
    "interpreted",
    "native",
    "relative_error",
]


class Runs(NamedTuple):
    """An implementation and the device that its tests put their tensors on."""

    name: str  # what ``amt.kernels.use`` takes
    device: str


def implementations(op: str, *, reference: bool = False) -> list:
    """The implementations of ``op`` as parameters ``Runs(name, device)`` of a test.

    native: on the CPU, with the mark ``native``; a run with AMT_CPU_ISA=0, 1 or 2 tries the older instruction sets.
    cuda, triton: on a GPU, with the mark ``gpu``. With TRITON_INTERPRET=1 triton runs on the CPU, with the mark ``interpreted``.
    reference: only where asked for. What is not there is skipped, with the reason.

    Use it so: ``@pytest.mark.parametrize("runs", implementations("hand_frames"), ids=str)`` and ``with use(runs.name)``.
    """
    names = [implementation.name for implementation in _backend.registered()[op]]
    found = []

    def add(name: str, device: str, mark, missing: str | None) -> None:
        marks = [mark] if missing is None else [mark, pytest.mark.skip(reason=missing)]
        if name in names:
            found.append(pytest.param(Runs(name, device), marks=marks, id=f"{name}-{device}"))

    if _triton.INTERPRETED:
        add("triton", "cpu", pytest.mark.interpreted, None if _triton.INSTALLED else "Triton is not installed")
    add("native", "cpu", pytest.mark.native, _native.missing(op, "cpu"))
    no_gpu = None if torch.cuda.is_available() else "no GPU"
    add("cuda", "cuda", pytest.mark.gpu, no_gpu or _native.missing(op, "cuda"))
    if not _triton.INTERPRETED:
        add("triton", "cuda", pytest.mark.gpu, no_gpu or _triton.missing(torch.device("cuda")))
    if reference:
        add("reference", "cpu", pytest.mark.filterwarnings("default"), None)
    return found


def native(op: str):
    """Decorator of a test that the native library alone passes through: mark ``native``, skipped where it is not built."""
    reason = _native.missing(op, "cpu")

    def mark(test):
        return pytest.mark.native(pytest.mark.skipif(reason is not None, reason=str(reason))(test))

    return mark


def interpreted(test):
    """Decorator of a test in Triton's interpreter: mark ``interpreted``; `make test` runs these with TRITON_INTERPRET=1."""
    return pytest.mark.interpreted(pytest.mark.skipif(not _triton.INTERPRETED, reason="needs TRITON_INTERPRET=1")(test))


# the interpreter compiles nothing
compiled = pytest.mark.skipif(_triton.INTERPRETED or not _triton.INSTALLED, reason="needs Triton's compiler")
