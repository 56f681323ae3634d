"""Calls of Triton's ops as plans: one dispatcher call of the native library in place of Python's host side.

The host side of an op allocates, makes views, now and then zeroes, copies or adds up, and launches. For tensors of the same
dtypes, shapes, strides and devices, and the same numbers, it does all of that alike. So its second call of a kind is recorded,
on tensors without numbers; from then on the native library (csrc/plan) repeats it: it allocates, fills the addresses into the
kernels' arguments and launches cubins that were compiled ahead of time. The host side stays the one definition of a call, and
takes every call that has no plan: where a cubin is missing, where an input is not aligned to 16 bytes, or where the host side
does anything else than the above.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amt.kernels import _native, _triton
from amt.kernels._cubins import ARCHITECTURES, Cubins, arguments, folder
from amt.kernels._torch_private import TorchDispatchMode

LAUNCH, ZERO, COPY, SUM = range(4)  # kinds of steps, as csrc/plan/plan.h has them
UNKNOWN, RAN, REFUSED = range(3)  # answers of plan_run
MOST_SEEN = 4096
DRIVER = "libcuda.so.1"

_aten = torch.ops.aten
_EMPTY = {_aten.empty.memory_format, _aten.new_empty.default, _aten.empty_like.default, _aten.empty_strided.default}
_ZEROS = {_aten.zeros.default, _aten.new_zeros.default}
_COPIES = {_aten.clone.default, _aten._to_copy.default}
_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)} | {
    torch.bool: 11,
    torch.bfloat16: 15,
    torch.float8_e4m3fn: 24,
}


class NoPlan(Exception):
    """Why a call is not planned."""


def planned(op: str, rebuild: Callable[[list[Tensor]], Any] = tuple) -> Callable[[Callable], Callable]:
    """Decorates the host side of ``op``, a function of tensors, lists of tensors, numbers, dtypes, None and words.

    Args:
        rebuild: makes what the function returns of its tensors in a row.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*values):
            cubins = _cubins_of(_device(values))
            if cubins is None or _triton.recording():
                return function(*values)
            name, tensors, numbers = _split(op, values)
            answer, results = torch.ops.amt.plan_run.default(name, tensors, numbers)
            if answer == RAN:
                return rebuild(results)
            if answer == UNKNOWN:
                _consider(name, function, values, tensors, numbers, cubins)
            return function(*values)

        return call

    return decorate


def state(device: torch.device) -> str:
    """Whether calls on a CUDA device are planned, in words."""
    _cubins_of(device)
    return _reasons.get(device) or f"{len(_cubins[device])} kernels for {_cubins[device].architecture} in {folder()}"


def _split(op: str, values: tuple) -> tuple[str, list[Tensor], list[float]]:
    tensors: list[Tensor] = []
    numbers: list[float] = []
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors.extend(value)
        elif isinstance(value, (str, torch.dtype)):
            op = f"{op} {value}"
        elif value is None:
            op = f"{op} {i}:None"  # where it stands: another argument that is None is another call
        else:
            numbers.append(float(value))
    return op, tensors, numbers


def _device(values: tuple) -> torch.device:
    """Of the call's first tensor."""
    return next(value.device for value in values if isinstance(value, Tensor))


_cubins: dict[torch.device, Cubins | None] = {}
_reasons: dict[torch.device, str] = {}  # why a device has no cubins
_refusals: dict[str, str] = {}  # the newest reason of each op why a call was not planned
_kernels: dict[tuple[str, int], int] = {}  # loaded: cubin and device to CUfunction
_seen: set[tuple] = set()


def _cubins_of(device: torch.device) -> Cubins | None:
    if device not in _cubins:
        try:
            _cubins[device] = _open(device)
        except ValueError as error:
            _cubins[device], _reasons[device] = None, f"off: {error}"
    return _cubins[device]


def _open(device: torch.device) -> Cubins:
    if device.type != "cuda":
        raise ValueError("it needs a CUDA card")
    if _native.missing_op("plan_run"):
        raise ValueError(_native.missing_op("plan_run"))
    major, minor = torch.cuda.get_device_capability(device)
    architecture = f"sm_{major}{minor}"
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"kernels are compiled ahead of time for {', '.join(ARCHITECTURES)}, the card has {architecture}"
        )
    cubins = Cubins(folder(), architecture)
    unusable = torch.ops.amt.plan_driver.default(DRIVER)
    if unusable:
        raise ValueError(f"CUDA's driver: {unusable}")
    return cubins


def _consider(name: str, function: Callable, values: tuple, tensors: list, numbers: list, cubins: Cubins) -> None:
    """Plans the second call of a kind: what differs at each call, such as a number that is learned, is never planned."""
    key = (name, *map(_triton.signature, tensors), *numbers)
    if key not in _seen:
        if len(_seen) >= MOST_SEEN:
            _seen.clear()
        _seen.add(key)
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return  # to load a kernel would end the capture
    _seen.discard(key)
    try:
        words = record(function, values, cubins)
    except (NoPlan, OSError) as reason:
        words, _refusals[name] = [], str(reason)
    torch.ops.amt.plan_make.default(name, tensors, numbers, words)


def record(function: Callable, values: tuple, cubins: Cubins) -> list[int]:
    """The plan of ``function(*values)`` in the words that csrc/plan/plan.h reads. Raises :class:`NoPlan` with the reason."""
    device = _device(values)
    trace = Trace()

    def outline(tensor: Tensor) -> Tensor:
        if not _triton.aligned(tensor):
            raise NoPlan("an input is not aligned to 16 bytes")
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        trace.add(meta)
        return meta

    outlines = [
        outline(x) if isinstance(x, Tensor) else [outline(y) for y in x] if isinstance(x, (list, tuple)) else x
        for x in values
    ]
    num_inputs = len(trace.slots)
    with trace, _triton.recorded(trace.steps, _triton.card(device)):
        results = function(*outlines)
    buffers = trace.made[num_inputs:]
    words = [num_inputs, len(buffers)]
    for buffer in buffers:
        words += [_CODES[buffer.dtype], *_listed(buffer.shape), *_listed(buffer.stride())]
    steps = [step for step in trace.steps if not isinstance(step, _triton.Launch) or min(step.grid) > 0]
    words.append(len(steps))
    for step in steps:
        words += _launch(trace, step, cubins, device) if isinstance(step, _triton.Launch) else trace.written(step)
    found = _tensors(results)
    words.append(len(found))
    for result in found:
        if trace.slot(result) < num_inputs:
            raise NoPlan("it returns an input")
        words += trace.view(result)
    return words


class Step(NamedTuple):
    """What a call does beside launches."""

    kind: int
    to: Tensor
    source: Tensor | None = None
    dims: tuple[int, ...] = ()


class Trace(TorchDispatchMode):
    """Writes down what a function does with tensors of the device meta."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: dict[int, int] = {}  # of a storage: inputs first, then buffers
        self.made: list[Tensor] = []  # by slot: the first tensor of the storage
        self.steps: list[Step | _triton.Launch] = []

    def add(self, tensor: Tensor) -> None:
        self.slots[tensor.untyped_storage()._cdata] = len(self.made)
        self.made.append(tensor)

    def __torch_dispatch__(self, function, types, values=(), names=None):
        out = function(*values, **(names or {}))
        if function is _aten.copy_.default:
            self.steps.append(Step(COPY, values[0], values[1]))
        elif function in _EMPTY:
            self.add(out)
        elif function in _ZEROS:
            self.add(out)
            self.steps.append(Step(ZERO, out))
        elif function in _COPIES:
            self.add(out)
            self.steps.append(Step(COPY, out, values[0]))
        elif function is _aten.cat.default:
            self.add(out)
            self._join(out, *values)
        elif function is _aten.sum.dim_IntList:
            self.add(out)
            self.steps.append(Step(SUM, out, values[0], tuple(values[1])))
        elif not function.is_view and isinstance(out, Tensor):  # promote_types gives a dtype
            raise NoPlan(f"it calls {function}")
        return out

    def _join(self, out: Tensor, parts: list[Tensor], dim: int = 0) -> None:
        first = 0
        for part in parts:
            size = part.shape[dim]
            shape = (*out.shape[:dim], size, *out.shape[dim + 1 :])
            to = torch.as_strided(out, shape, out.stride(), out.storage_offset() + first * out.stride(dim))
            self.steps.append(Step(COPY, to, part))
            first += size

    def slot(self, tensor: Tensor) -> int:
        found = self.slots.get(tensor.untyped_storage()._cdata)
        if found is None:
            raise NoPlan("it reads a tensor that is neither given nor made in the call")
        return found

    def view(self, tensor: Tensor) -> list[int]:
        return [self.slot(tensor), tensor.storage_offset(), *_listed(tensor.shape), *_listed(tensor.stride())]

    def written(self, step: Step) -> list[int]:
        words = [step.kind, *self.view(step.to)]
        if step.source is not None:
            words += self.view(step.source)
        return [*words, *_listed(step.dims)] if step.kind == SUM else words


def _launch(trace: Trace, launch: _triton.Launch, cubins: Cubins, device: torch.device) -> list[int]:
    entry = cubins.find(launch)
    if entry is None:
        raise NoPlan(f"no cubin of {launch.kernel.fn.__name__} was compiled for these arguments")
    data, pointers = arguments(launch)
    if len(data) != entry["parameters"]:
        raise NoPlan(f"{launch.kernel.fn.__name__} takes {entry['parameters']} bytes, not {len(data)}")
    key = entry["cubin"], device.index or 0
    if key not in _kernels:
        image = torch.frombuffer(bytearray(cubins.image(entry)), dtype=torch.uint8)
        _kernels[key] = torch.ops.amt.plan_kernel.default(image, entry["name"], entry["shared"], key[1])
    padded = data + bytes(-len(data) % 8)
    words = [LAUNCH, _kernels[key], *launch.grid, 32 * launch.warps, entry["shared"], len(data)]
    words += _listed(int.from_bytes(padded[i : i + 8], "little", signed=True) for i in range(0, len(padded), 8))
    words.append(len(pointers))
    for position, tensor in pointers:
        words += [position, trace.slot(tensor), tensor.storage_offset() * tensor.element_size()]
    return words


def _listed(numbers) -> list[int]:
    numbers = list(numbers)
    return [len(numbers), *numbers]


def _tensors(results) -> list[Tensor]:
    if isinstance(results, Tensor):
        return [results]
    return [tensor for part in results for tensor in _tensors(part)]
