"""``python -m amt.kernels.aot``: compiles every Triton kernel ahead of time for sm_90 and sm_80, without a GPU.

It writes a cubin for each kernel, specialisation and architecture, and manifest.json with what became of it: registers, spills,
shared memory, matrix instructions, and how it is launched. The launches are those that the ops make for the shapes of
:mod:`amt.kernels.aot_shapes`, recorded with tensors that hold no numbers. In the default folder they serve the calls of this
machine's card, see :mod:`amt.kernels._plans`.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt.errors import UsageError
from amt.files import write_text
from amt.kernels._cubins import ARCHITECTURES, MANIFEST, SCHEMA, folder, specialise
from amt.startup import Parser, run_program

if TYPE_CHECKING:
    from amt.kernels._triton import Launch

MOST_SHARED = {"sm_90": 227 * 1024, "sm_80": 163 * 1024}  # bytes that a block may have
MATRIX = ("HGMMA", "QGMMA", "HMMA", "QMMA")  # Hopper's own for 16 bits and for FP8; the older ones, a warp's


@dataclass(frozen=True)
class Code:
    """What a kernel became.

    Attributes:
        name: of the kernel in the cubin.
        stack: bytes a thread keeps in local memory.
        shared: bytes a block keeps in shared memory.
        instructions: opcodes of the machine code; of PTX where there is no disassembler.
        spills: whether registers go to local memory.
    """

    cubin: bytes
    name: str
    registers: int
    stack: int
    shared: int
    instructions: frozenset[str]
    spills: bool

    @property
    def matrix(self) -> tuple[str, ...]:
        """The matrix instructions that are there."""
        return tuple(name for name in MATRIX if name in self.instructions)


def compile_launch(launch: Launch, capability: int = 90) -> Code:
    """The launch's kernel, specialised as Triton would at run time, for an architecture (90: sm_90).

    Raises whatever Triton's compiler raises, such as for e4m3 numbers below 89.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    signature, attributes, values = specialise(launch)
    source = triton.compiler.ASTSource(launch.kernel, signature=signature, constexprs=values, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    if launch.registers is not None:
        options["maxnreg"] = launch.registers
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return _read(compiled.asm["cubin"], compiled.metadata.name, compiled.metadata.shared)


def parameters(cubin: bytes, name: str) -> list[tuple[int, int]]:
    """(offset, bytes) of each parameter of a kernel, as the cubin's section .nv.info says them."""
    (sections,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, sections + i * size) for i in range(count)]
    for header in headers:
        begin = headers[names][4] + header[0]
        if cubin[begin : cubin.index(0, begin)].decode() == f".nv.info.{name}":
            return sorted(_parameters(cubin[header[4] : header[4] + header[5]]))
    raise ValueError(f"the cubin says nothing of {name}")


def _parameters(info: bytes) -> Iterator[tuple[int, int]]:
    at, sized, parameter = 0, 4, 0x17  # EIFMT_SVAL, EIATTR_KPARAM_INFO
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        if (form, attribute) == (sized, parameter):
            _, _, offset, flags = struct.unpack_from("<IHHI", info, at + 4)
            yield offset, flags >> 18
        at += 4 + (size if form == sized else 0)


def _read(cubin: bytes, name: str, shared: int) -> Code:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        disassembly = tool_output("nvdisasm", "-c", file.name)
        resources = tool_output("cuobjdump", "-res-usage", file.name)
    if disassembly is None or resources is None:
        raise RuntimeError("nvdisasm and cuobjdump are not in Triton's package: install the wheel of PyPI")
    opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", disassembly, re.MULTILINE)
    assert "EXIT" in opcodes, "the disassembly was not understood"
    registers, stack = (int(re.search(rf"{what}:(\d+)", resources)[1]) for what in ("REG", "STACK"))
    found = frozenset(opcodes)
    return Code(cubin, name, registers, stack, shared, found, stack > 0 or bool(found & {"LDL", "STL"}))


def tool_output(tool: str, *arguments: str) -> str | None:
    """What a tool of Triton's wheel prints, such as nvdisasm; ``None`` where the wheel has none."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    if not path.is_file():
        return None
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def build(folder: Path, architectures: Sequence[str], ops: Sequence[str], say=print) -> list[dict[str, Any]]:
    """Compiles the launches of ``ops`` and writes cubins and manifest.json into ``folder``; returns their entries.

    The manifest is written after each op. What it says of other ops stays, if the same Triton compiled them.
    """
    import triton

    from amt.kernels import aot_shapes

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    kept_before = _entries(path, triton.__version__)
    kernels = []
    for op in ops:
        for architecture in architectures:
            for shape, launch in aot_shapes.launches(op, ARCHITECTURES[architecture]):
                entry = {"op": op, "shape": shape, "kernel": launch.kernel.fn.__name__, "architecture": architecture}
                entry |= _compiled(launch, 10 * ARCHITECTURES[architecture].major, folder, entry)
                kernels.append(entry)
                said = entry.get("left_out") or (
                    f"{entry['registers']} registers, {entry['shared']} B shared, {' '.join(entry['matrix']) or 'no matrix'}"
                    + (", SPILLS" if entry["spills"] else "")
                    + (", TOO MUCH SHARED MEMORY" if entry["shared"] > MOST_SHARED[architecture] else "")
                )
                say(f"{architecture} {op} {shape} {entry['kernel']}: {said}")
        made = {(entry["op"], entry["architecture"]) for entry in kernels}
        kept = [entry for entry in kept_before if (entry["op"], entry["architecture"]) not in made]
        write_text(
            path,
            json.dumps({"schema": SCHEMA, "triton": triton.__version__, "kernels": kept + kernels}, indent=1) + "\n",
        )
    return kernels


def _entries(path: Path, version: str) -> list[dict[str, Any]]:
    """The entries of a manifest that this Triton wrote; none where it is missing, damaged or another's: it is written anew."""
    try:
        manifest = json.loads(path.read_text())
        if (manifest["schema"], manifest["triton"]) != (SCHEMA, version):
            return []
        return [entry for entry in manifest["kernels"] if {"op", "architecture"} <= set(entry)]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _compiled(launch: Launch, capability: int, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    how = {"warps": launch.warps, "stages": launch.stages, "most_registers": launch.registers}
    how |= {"source": launch.kernel.cache_key, "specialisation": specialise(launch).text(launch)}
    if capability < 89 and _reads_e4m3(launch):
        return {**how, "left_out": "e4m3 products came with sm_89"}
    code = compile_launch(launch, capability)
    digest = hashlib.sha256(code.cubin).hexdigest()
    name = f"{entry['op']}-{entry['kernel']}-{entry['architecture']}-{digest[:12]}.cubin"
    (folder / name).write_bytes(code.cubin)
    return {
        **how,
        "name": code.name,
        "parameters": max(sum(parameter) for parameter in parameters(code.cubin, code.name)),
        "registers": code.registers,
        "stack": code.stack,
        "spills": code.spills,
        "shared": code.shared,
        "matrix": list(code.matrix),
        "cubin": name,
        "sha256": digest,
    }


def _reads_e4m3(launch: Launch) -> bool:
    import torch

    return any(isinstance(x, torch.Tensor) and x.dtype == torch.float8_e4m3fn for x in launch.arguments)


def main(arguments: Sequence[str] = ()) -> int:
    """Compiles; 0, 1 where a kernel spills or needs too much shared memory, 2 after one line that names what is wrong."""
    return run_program("amt.kernels.aot", lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> int:
    from amt.kernels import _triton
    from amt.kernels.aot_shapes import OPS

    parser = Parser(prog="python -m amt.kernels.aot", description=__doc__.split("\n\n")[0])
    parser.add_argument("op", nargs="*", help=f"{', '.join(OPS)}; all of them by default")
    parser.add_argument("--output", type=Path, help=f"the folder ({folder()}, which calls read)")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append", help="sm_90 and sm_80 by default")
    options = parser.parse_args(arguments)
    unknown = [op for op in options.op if op not in OPS]
    if unknown:
        raise UsageError(f"op must be one of {', '.join(OPS)}; got {unknown[0]!r}")
    if not _triton.INSTALLED:
        raise UsageError("Triton is not installed: `pip install triton`")
    if _triton.INTERPRETED:
        raise UsageError("TRITON_INTERPRET=1 is set: the interpreter compiles nothing; unset it")
    output = options.output or folder()
    kernels = build(output, options.architecture or list(ARCHITECTURES), options.op or list(OPS))
    spilled = [entry for entry in kernels if entry.get("spills")]
    large = [entry for entry in kernels if entry.get("shared", 0) > MOST_SHARED[entry["architecture"]]]
    print(f"{len(kernels)} kernels: {output / MANIFEST}")
    if spilled:
        print(f"{len(spilled)} of them spill registers", file=sys.stderr)
    if large:
        print(f"{len(large)} of them need more shared memory than the architecture grants a block", file=sys.stderr)
    return 1 if spilled or large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
