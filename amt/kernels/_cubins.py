"""Kernels that were compiled ahead of time: what Triton specialises a launch by, and the cubin that was compiled for it.

``python -m amt.kernels.aot`` writes a folder of cubins and manifest.json. A cubin serves a launch of the same kernel source, the
same types, alignments and ones among the arguments, the same constants, warps, stages and registers, on the architecture and by
the Triton that it was compiled for: it is then what Triton would compile at run time, bit for bit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amt.kernels._table import user_folder
from amt.kernels._triton import HOPPER, Card, Launch

MANIFEST, SCHEMA = "manifest.json", 2
ARCHITECTURES = {"sm_90": HOPPER, "sm_80": Card(8, 108)}
SCRATCH = 2  # null pointers after a kernel's arguments: global and profiling memory, which no kernel here asks for
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
    torch.float8_e4m3fn: "*fp8e4nv",
}
_FORMATS = {"i32": "i", "i64": "q", "fp32": "f"}


def folder() -> Path:
    """Where the cubins are that calls use: $XDG_CACHE_HOME/amt/cubins, or ~/.cache/amt/cubins."""
    return user_folder("cubins")


class Specialised(NamedTuple):
    """Triton's description of a launch: a kernel is compiled once for each."""

    signature: dict[str, Any]  # types by argument; "constexpr" for constants and ones
    attributes: dict[tuple, list]  # of arguments that multiples of 16 are, by their path
    values: dict[tuple, object]  # of constants and ones, by their path

    def text(self, launch: Launch) -> str:
        """The same as one line: a cubin's key beside its source."""
        options = {"warps": launch.warps, "stages": launch.stages, "registers": launch.registers}
        return f"{self.signature} {sorted(self.attributes)} {self.values} {options}"


def specialise(launch: Launch) -> Specialised:
    """As Triton specialises at run time. A tensor counts as aligned by its place in its storage."""
    names, found = launch.kernel.arg_names, Specialised({}, {}, {})
    for i, (name, x) in enumerate(zip(names, launch.arguments)):
        found.signature[name] = _type(x, (i,), found)
    for name, value in launch.constants.items():
        found.signature[name] = "constexpr"
        found.values[names.index(name),] = value
    return found


def _type(x, path: tuple[int, ...], found: Specialised):
    if isinstance(x, tuple):
        return tuple(_type(y, (*path, i), found) for i, y in enumerate(x))
    if isinstance(x, Tensor):
        if x.storage_offset() * x.element_size() % 16 == 0:
            found.attributes[path] = [["tt.divisibility", 16]]
        return POINTERS[x.dtype]
    if isinstance(x, float):
        return "fp32"
    if x == 1:
        found.values[path] = 1
        return "constexpr"
    if x % 16 == 0:
        found.attributes[path] = [["tt.divisibility", 16]]
    return "i32" if -(2**31) <= x < 2**31 else "i64"


def arguments(launch: Launch) -> tuple[bytes, list[tuple[int, Tensor]]]:
    """The bytes of a launch's arguments as the device reads them, and where in them the addresses of which tensors belong."""
    signature, data, pointers = specialise(launch).signature, bytearray(), []
    types = (signature[name] for name in launch.kernel.arg_names)
    for kind, x in _flat(tuple(types)[: len(launch.arguments)], launch.arguments):
        if kind == "constexpr":
            continue
        size = 8 if isinstance(x, Tensor) else struct.calcsize(_FORMATS[kind])
        data.extend(bytes(-len(data) % size))
        if isinstance(x, Tensor):
            pointers.append((len(data), x))
        data.extend(bytes(8) if isinstance(x, Tensor) else struct.pack("<" + _FORMATS[kind], x))
    data.extend(bytes(-len(data) % 8 + 8 * SCRATCH))
    return bytes(data), pointers


def _flat(types: tuple, values: tuple) -> Iterator[tuple[str, object]]:
    for kind, value in zip(types, values, strict=True):
        if isinstance(value, tuple):
            yield from _flat(kind, value)
        else:
            yield kind, value


class Cubins:
    """What a folder holds for one architecture.

    Raises:
        ValueError: there is no manifest, it is none of ours, or another Triton compiled the cubins; the message has the remedy.
    """

    def __init__(self, folder: Path, architecture: str):
        import triton

        self.folder, self.architecture = folder, architecture
        path, remedy = folder / MANIFEST, "run `python -m amt.kernels.aot`"
        try:
            content = json.loads(path.read_text())
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
            kernels, version = content["kernels"], content["triton"]
            self._entries = {
                (kernel["source"], kernel["specialisation"]): kernel
                for kernel in kernels
                if kernel["architecture"] == architecture and "cubin" in kernel
            }
        except FileNotFoundError:
            raise ValueError(f"there is no {path}: {remedy}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no manifest of kernels ({error}): {remedy}") from None
        if version != triton.__version__:
            raise ValueError(f"Triton {version} compiled {path}, here is {triton.__version__}: {remedy}")
        if not self._entries:
            raise ValueError(f"{path} has no kernel for {architecture}: {remedy}")

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, launch: Launch) -> dict[str, Any] | None:
        """The manifest's entry for a launch."""
        return self._entries.get((launch.kernel.cache_key, specialise(launch).text(launch)))

    def image(self, entry: dict[str, Any]) -> bytes:
        return (self.folder / entry["cubin"]).read_bytes()
