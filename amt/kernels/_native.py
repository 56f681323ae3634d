"""Loads the library that csrc compiles to, or remembers why it could not.

Importing never fails and never compiles: :func:`missing` answers ``None`` or the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from amt.kernels._torch_private import all_op_names, has_kernel

# another build of the library, to compare two of them or to test one without installing it
LIBRARY = Path(os.environ.get("AMT_NATIVE_LIBRARY", Path(__file__).parent.parent / "_native.so"))


def _load() -> str | None:
    if not LIBRARY.exists():
        if "AMT_NATIVE_LIBRARY" in os.environ:
            return f"the environment variable AMT_NATIVE_LIBRARY names {LIBRARY}, which does not exist"
        return (
            "the native library is not built: install a C++ compiler (and nvcc for CUDA), "
            "then `pip install -e . --no-build-isolation`"
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} does not load ({error}): rebuild it with `pip install -e . --no-build-isolation`"
    return None


_reason = _load()
# Asked once, and not in `missing`: torch.compile traces the dispatch, and cannot trace these questions.
_with_cuda = _reason is None and torch.ops.amt.built_with_cuda()
_kernels = {
    name: [key for key in ("CPU", "CUDA") if has_kernel(name, key)]
    for name in all_op_names()
    if name.startswith("amt::")
}


def missing(op: str, device_type: str) -> str | None:
    """Why ``torch.ops.amt.<op>`` cannot run on ``device_type`` ("cpu", "cuda"); ``None`` where it can."""
    if _reason is not None:
        return _reason
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    if key is None:
        return f"the native library has no kernels for the device type {device_type!r}"
    if device_type == "cuda" and not _with_cuda:
        return "the native library was built without nvcc: set CUDA_HOME or PATH and install again"
    if f"amt::{op}" not in _kernels:  # an older build
        return f"the native library holds no {op}: rebuild it with `pip install -e . --no-build-isolation`"
    if key not in _kernels[f"amt::{op}"]:
        return f"the native library holds no {key} kernel of {op}"
    return None


def missing_op(op: str) -> str | None:
    """Why the library has no op of that name that runs on any device; ``None`` where it has."""
    if _reason is not None:
        return _reason
    if f"amt::{op}" not in _kernels:
        return f"the native library holds no {op}: rebuild it with `pip install -e . --no-build-isolation`"
    return None


def reason_on(op: str, device_type: str) -> Callable[[torch.device, torch.dtype], str | None]:
    """The ``reason`` of a registered implementation that is ``op``'s native kernel for one device type."""

    def reason(device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != device_type:
            return f"it runs on {device_type} tensors only"
        return missing(op, device_type)

    return reason
