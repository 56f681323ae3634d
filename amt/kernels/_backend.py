"""Which implementation an op takes: the one place where that is decided, and where the reason can be read.

Every op registers its implementations here, best first. ``auto`` takes the first that can run for a device and dtype and
says once what it passed over; an explicit choice that cannot run raises with the reason. An implementation's module, with
its custom ops, their shapes and derivatives, is imported when the implementation is chosen for the first time, also while
torch.compile or torch.export traces that call: ``import amt.kernels`` imports neither Triton nor a compiler.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import amt
from amt.errors import UserError
from amt.kernels._torch_private import transforms_active
from amt.startup import IMPLEMENTATIONS, check_variables


class BackendUnavailable(UserError, RuntimeError):
    """An implementation was asked for by name and cannot run here."""


@dataclass(frozen=True)
class Implementation:
    """One way to run an op.

    Args:
        name: what ``use`` and AMT_KERNELS call it.
        load: imports the implementation and returns the function that runs it. Called when it is chosen for the first time.
        reason: ``reason(device, dtype)`` says why the implementation cannot run there, or returns ``None``. It imports nothing.
        fast: False for a slower stand-in such as the reference; ``auto`` warns once when it has to fall back to it, but
            not while torch.compile traces.
        transforms: whether it runs under torch.func (vmap, grad, jvp, ...) and in forward-mode AD, as plain PyTorch does. A
            custom op knows reverse-mode derivatives alone: PyTorch loops over its batch, loses its tangents, or raises.
    """

    name: str
    load: Callable[[], Callable]
    reason: Callable[[torch.device, torch.dtype], str | None]
    fast: bool = True
    transforms: bool = False


def runs_everywhere(device: torch.device, dtype: torch.dtype) -> None:
    """The ``reason`` of an implementation that has no limits."""


_OURS = tuple(f"{Path(package.__file__).parent}{os.sep}" for package in (amt, torch))
_implementations: dict[str, list[Implementation]] = {}
_resolved: dict[tuple, Callable] = {}
_observer: Callable[[str, Callable], Callable] | None = None
_warned: set[tuple] = set()


check_variables(but=("AMT_NATIVE_LIBRARY",))  # a library that is not there is a reason, see _native.py
_choice: str = os.environ.get("AMT_KERNELS", "auto")


def register(op: str, implementations: list[Implementation]) -> None:
    """Adds the implementations of ``op``, best first; the last one must run everywhere."""
    _implementations[op] = implementations


def registered() -> dict[str, list[Implementation]]:
    """Every op's implementations in the order in which ``auto`` tries them."""
    return dict(_implementations)


@contextmanager
def use(name: str):
    """Runs every op inside the block with one implementation: ``"reference"``, ``"native"`` (C++ on the CPU), ``"triton"``,
    ``"cuda"`` or ``"auto"``. Process-wide, not per thread. The environment variable AMT_KERNELS sets the default.

    Raises:
        ValueError: ``name`` is none of these.
        BackendUnavailable: by the op that is called inside, when that implementation cannot run there.
    """
    global _choice
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"the implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    before, _choice = _choice, name
    try:
        yield
    finally:
        _choice = before


@contextmanager
def observed(wrap: Callable[[str, Callable], Callable]):
    """Inside the block ``wrap(op, function)`` runs in place of every op's function: for who looks at what an op is given.

    Process-wide. What torch.compile traces is not wrapped.
    """
    global _observer
    before, _observer = _observer, wrap
    try:
        yield
    finally:
        _observer = before


def choose(op: str, device: torch.device, dtype: torch.dtype) -> Callable:
    """The function that runs ``op`` for tensors of this device and dtype under the present choice.

    Under torch.func and in forward-mode AD ``auto`` passes over the implementations that are custom ops.
    """
    transformed = transforms_active()
    key = (op, device, dtype, _choice, transformed)
    function = _resolved.get(key)
    if function is None:
        function = _resolved[key] = _resolve(op, device, dtype, transformed).load()
    if _observer is not None and not torch.compiler.is_compiling():
        return _observer(op, function)
    return function


def explain(op: str, device: torch.device, dtype: torch.dtype) -> list[tuple[str, str | None]]:
    """Each implementation of ``op`` with the reason why it cannot run for this device and dtype (``None``: it can)."""
    return [(implementation.name, implementation.reason(device, dtype)) for implementation in _implementations[op]]


def _users_level() -> int:
    """The stacklevel, for the caller, of the nearest line outside of AMT and PyTorch."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level if frame is not None else 1


def _resolve(op: str, device: torch.device, dtype: torch.dtype, transformed: bool) -> Implementation:
    candidates = _implementations[op]

    def reason_of(implementation: Implementation) -> str | None:
        reason = implementation.reason(device, dtype)
        if reason is None and transformed and not implementation.transforms:
            return "it does not run under torch.func (vmap, grad, jvp, ...) nor in forward-mode AD"
        return reason

    if _choice != "auto":
        for implementation in candidates:
            if implementation.name == _choice:
                reason = reason_of(implementation)
                if reason is None:
                    return implementation
                raise BackendUnavailable(
                    f"amt.kernels.{op}: {_choice!r} cannot run on {device.type} in {dtype}: {reason}"
                )
        raise BackendUnavailable(
            f"amt.kernels.{op} has no implementation {_choice!r}; it has {', '.join(i.name for i in candidates)}: "
            "take one of these, or auto (amt.kernels.use, AMT_KERNELS, kernels.use)"
        )
    passed_over = []
    for implementation in candidates:
        reason = reason_of(implementation)
        if reason is None:
            # meta computes nothing; torch.compile cannot trace a warning
            slow = (
                not implementation.fast and passed_over and device.type != "meta" and not torch.compiler.is_compiling()
            )
            if slow and (op, device.type, transformed) not in _warned:
                _warned.add((op, device.type, transformed))
                warnings.warn(
                    f"amt.kernels.{op} on {device.type} in {dtype} runs as {implementation.name!r}: "
                    + "; ".join(passed_over),
                    stacklevel=_users_level(),
                )
            return implementation
        if not transformed or implementation.reason(device, dtype) is None:  # else it could not run here anyway
            passed_over.append(f"{implementation.name}: {reason}")
    raise BackendUnavailable(f"amt.kernels.{op} cannot run on {device.type} in {dtype}: " + "; ".join(passed_over))
