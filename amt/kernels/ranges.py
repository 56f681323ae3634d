"""Names of what runs, on the time lines of PyTorch's profiler and of Nsight Systems. They cost nothing until somebody records."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from amt.kernels import _backend

_NOTHING = nullcontext()
_recording = False


def stage(name: str) -> AbstractContextManager:
    """A block that bears ``name`` on the time line; nothing where nobody records, and in what torch.compile traces."""
    return _Range(name) if _recording and not torch.compiler.is_compiling() else _NOTHING


@contextmanager
def recording(model: nn.Module | None = None) -> Iterator[None]:
    """A block in which stages, ops ("amt.refine") and the parts of ``model`` bear their names.

    Parts are its direct children ("backbone") and what stands in lists, such as transformer blocks ("fusion.blocks.2").
    """
    global _recording
    open_ranges: list[_Range] = []
    hooks = []
    for name, child in [] if model is None else _parts(model):
        hooks.append(
            child.register_forward_pre_hook(lambda *_, name=name: open_ranges.append(_Range(name).__enter__()))
        )
        hooks.append(child.register_forward_hook(lambda *_: open_ranges.pop().__exit__() and None))
    before, _recording = _recording, True
    try:
        with _backend.observed(_named):
            yield
    finally:
        _recording = before
        for hook in hooks:
            hook.remove()


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from model.named_children()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            yield from ((f"{name}.{i}", child) for i, child in enumerate(module))


class _Range:
    """One range on every time line that there is. Nsight's is NVTX's: by PyTorch on CUDA, else by the package nvtx."""

    def __init__(self, name: str):
        self.name, self.torch, self.nvtx = name, torch.profiler.record_function(name), _nvtx()

    def __enter__(self) -> _Range:
        self.torch.__enter__()
        if self.nvtx:
            self.nvtx[0](self.name)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.nvtx:
            self.nvtx[1]()
        self.torch.__exit__(*(error or (None, None, None)))


@functools.cache
def _nvtx() -> tuple[Callable, Callable] | None:
    if torch.cuda.is_available():
        return torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop
    try:
        import nvtx
    except ImportError:
        return None
    return nvtx.push_range, nvtx.pop_range


def _named(op: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def run(*arguments, **options):
        with _Range(f"amt.{op}"):
            return function(*arguments, **options)

    return run
