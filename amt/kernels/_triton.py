"""Triton on the host: whether a kernel can run, and launches that look a compiled kernel up once.

Kernels run on a GPU, or on the CPU in Triton's interpreter (TRITON_INTERPRET=1, for tests). Triton looks a compiled kernel up by
all its arguments, which costs the host several times the launch. The inputs of a call decide the same: see :func:`launcher`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """Why no Triton kernel can run on ``device``; ``None`` where it can."""
    if not INSTALLED:
        return "Triton is not installed: `pip install triton`"
    if device.type == "cuda" or (INTERPRETED and device.type == "cpu"):
        return None
    return "it runs on CUDA tensors only (on the CPU with TRITON_INTERPRET=1, slowly)"


def signature(tensor: torch.Tensor) -> tuple:
    """What Triton specialises a kernel by, and the device."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.device, aligned(tensor)


def aligned(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % 16 == 0


class Launcher:
    """Launches the kernels of calls that Triton specialises alike."""

    def __init__(self) -> None:
        self._compiled: dict[tuple, object] = {}

    def __call__(
        self,
        kernel,
        grid: tuple[int, ...],
        /,
        *positional,
        warps: int,
        stages: int = 1,
        registers: int | None = None,
        slot: tuple = (),
        **arguments,
    ):
        """``positional`` and ``arguments`` are the kernel's, in its order.

        Args:
            registers: the most that a thread may have; None leaves it to the compiler.
            slot: what decides on the arguments' alignment beside the launcher's key, such as the step.
        """
        grid = (*grid, 1, 1)[:3]
        compiled = self._compiled.get((id(kernel), slot))
        if compiled is None:  # the first time, and in the interpreter, which compiles nothing
            assert kernel.arg_names[len(positional) :] == list(arguments), "arguments must be in the kernel's order"
            options = {} if registers is None else {"maxnreg": registers}
            compiled = kernel[grid](*positional, **arguments, num_warps=warps, num_stages=stages, **options)
            self._compiled[id(kernel), slot] = compiled
        else:
            compiled[grid](*positional, *arguments.values())


class Launch(NamedTuple):
    """One launch that did not happen: what Triton would have compiled."""

    kernel: object
    arguments: tuple  # in the kernel's order, without its constants
    constants: dict[str, object]
    warps: int
    stages: int
    registers: int | None
    grid: tuple[int, ...] = (1, 1, 1)


class Card(NamedTuple):
    """What the host side of an op asks of the card that its kernels run on."""

    major: int  # of the compute capability
    multiprocessors: int


HOPPER = Card(9, 132)


class _Recorder:
    """In a launcher's place, for :func:`recorded`."""

    def __init__(self, launches: list, card: Card) -> None:
        self._launches = launches
        self.card = card

    def __call__(self, kernel, grid, /, *positional, warps, stages=1, registers=None, slot=(), **named) -> None:
        # a kernel's constants are in capitals, and come last
        constants = {name: value for name, value in named.items() if name.isupper()}
        arguments = (*positional, *(value for name, value in named.items() if not name.isupper()))
        assert kernel.arg_names[len(positional) :] == list(named), "arguments must be in the kernel's order"
        grid = (*grid, 1, 1)[:3]
        self._launches.append(Launch(kernel, arguments, constants, warps, stages, registers, grid))


@contextmanager
def recorded(launches: list | None = None, card: Card = HOPPER) -> Iterator[list]:
    """A block in which this thread's kernels are not launched: yields the list that their launches go to. Tensors may be on meta.

    Args:
        launches: the list, a new one by default.
        card: what the launches are for.
    """
    launches = [] if launches is None else launches
    _recording.recorder = _Recorder(launches, card)
    try:
        yield launches
    finally:
        _recording.recorder = None


def recording() -> bool:
    """Whether this thread's launches are recorded."""
    return _recording.recorder is not None


def card(device: torch.device) -> Card:
    """That of a call's tensors; the one that is recorded for; Hopper's numbers in the interpreter."""
    recorder = _recording.recorder
    return _card(device) if recorder is None else recorder.card


@functools.lru_cache
def _card(device: torch.device) -> Card:
    if device.type != "cuda":
        return HOPPER
    properties = torch.cuda.get_device_properties(device)
    return Card(properties.major, properties.multi_processor_count)


class _Recording(threading.local):
    recorder: _Recorder | None = None


MOST_LAUNCHERS = 512
_launchers: dict[tuple, Launcher] = {}
_recording = _Recording()


def launcher(key: tuple) -> Launcher | _Recorder:
    """The launcher of all calls with this ``key``: the op's name, the inputs' signatures, and what else enters the arguments."""
    if _recording.recorder is not None:
        return _recording.recorder
    found = _launchers.get(key)
    if found is None:
        if len(_launchers) >= MOST_LAUNCHERS:
            _launchers.clear()
        found = _launchers[key] = Launcher()
    return found
