"""Compiles Triton kernels for sm_90 without a GPU and reads what became of them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
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


@dataclass(frozen=True)
class Code:
    registers: int
    stack: int  # bytes a thread
    shared: int  # bytes a block
    instructions: frozenset[str]  # opcodes


def compile_for_hopper(
    kernel, arguments: tuple, constants: dict, warps: int, stages: int, registers: int | None = None
) -> Code:
    """``kernel`` for these arguments (tensors of any device, meta as well), specialised as a launch would.

    ``registers``: the most that a thread may have.
    """
    names = kernel.arg_names
    attributes, values = {}, {}
    signature = {name: _describe(x, (i,), attributes, values) for i, (name, x) in enumerate(zip(names, arguments))}
    for name, value in constants.items():
        signature[name] = "constexpr"
        values[names.index(name),] = value
    source = triton.compiler.ASTSource(kernel, signature=signature, constexprs=values, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages} | ({"maxnreg": registers} if registers else {})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        disassembly = _output("nvdisasm", "-c", file.name)
        resources = _output("cuobjdump", "-res-usage", file.name)
    opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", disassembly, re.MULTILINE)
    assert "EXIT" in opcodes, "the disassembly was not understood"
    registers, stack = (int(re.search(rf"{what}:(\d+)", resources)[1]) for what in ("REG", "STACK"))
    return Code(registers, stack, compiled.metadata.shared, frozenset(opcodes))


def _describe(x, path: tuple[int, ...], attributes: dict, values: dict):
    if isinstance(x, tuple):
        return tuple(_describe(y, (*path, i), attributes, values) for i, y in enumerate(x))
    if isinstance(x, torch.Tensor):
        if x.storage_offset() * x.element_size() % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return POINTERS[x.dtype]
    if isinstance(x, float):
        return "fp32"
    if x == 1:
        values[path] = 1
        return "constexpr"
    if x % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if abs(x) < 2**31 else "i64"


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout
