"""`python -m benchmarks.cutlass` compiles CUTLASS's kernels for Hopper and takes what they became into docs/kernels.md's table.

It needs nvcc, and CUTLASS's headers from the wheel nvidia-cutlass or from AMT_CUTLASS_DIR; a card is not needed. It takes
minutes. benchmarks/results/aot/cutlass.json keeps a digest of the sources beside the findings, which a test compares.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from amt.kernels.aot import MATRIX, tool_output
from benchmarks.results import FOLDER, ROOT

FILE = FOLDER / "aot" / "cutlass.json"
SOURCES = ROOT / "csrc" / "fp8_linear"
TILES = {"Pingpong": "tiles of 64 x 128", "Cooperative": "tiles of 128 x 128"}
NOTABLE = (*MATRIX, "UTMALDG", "UTMASTG", "LDL", "STL")


def kernels() -> list[Path]:
    """The files that hold a kernel each, in two sizes of tiles."""
    return sorted(SOURCES.glob("cutlass_linear*.cu"))


def digest() -> str:
    """Of everything that decides on the kernels' code but the compiler and CUTLASS."""
    found = hashlib.sha256()
    for path in (SOURCES / "product.h", SOURCES / "cutlass_product.cuh", *kernels()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def headers() -> Path:
    """CUTLASS's include folder. Raises ValueError, with the remedy, where there is none."""
    given, wheel = os.environ.get("AMT_CUTLASS_DIR"), importlib.util.find_spec("cutlass_library")
    where = Path(given) if given else Path(wheel.origin).parent / "source" if wheel else None
    for folder in (where / "include", where) if where else ():
        if (folder / "cutlass" / "version.h").is_file():
            return folder
    raise ValueError(
        "no headers of CUTLASS: `pip install --no-deps nvidia-cutlass`, or set AMT_CUTLASS_DIR to its repository"
    )


def compile_kernels(source: Path, include: Path, nvcc: str) -> list[dict]:
    """What the kernels of one file became. Raises CalledProcessError where nvcc fails."""
    flags = ["-std=c++20", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-gencode=arch=compute_90a,code=sm_90a"]
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        places = ["-isystem", include, f"-I{ROOT / 'csrc'}"]
        subprocess.run([nvcc, *flags, *places, "-cubin", source, "-o", cubin], check=True)
        usage, code = tool_output("cuobjdump", "-res-usage", str(cubin)), tool_output("nvdisasm", "-c", str(cubin))
    if usage is None or code is None:
        raise ValueError("nvdisasm and cuobjdump come with Triton: `pip install triton`")
    return read(source.stem.removeprefix("cutlass_"), usage, code)


def read(kernel: str, usage: str, code: str) -> list[dict]:
    """Registers and instructions of each function, out of cuobjdump's and nvdisasm's texts."""
    functions = dict(re.findall(r"Function (\w+):\s*\n(.*)", usage))
    bodies = dict(re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\.text\.|\Z)", code, re.MULTILINE | re.DOTALL))
    found = []
    for name, resources in functions.items():
        registers, stack = (int(re.search(rf"{what}:(\d+)", resources)[1]) for what in ("REG", "STACK"))
        opcodes = set(
            re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", bodies[name], re.MULTILINE)
        )
        assert "EXIT" in opcodes, "the disassembly was not understood"
        found.append({
            "op": "fp8_linear",
            "kernel": kernel,
            "shape": next(said for word, said in TILES.items() if word in name),
            "registers": registers,
            "spills": stack > 0 or bool(opcodes & {"LDL", "STL"}),
            "shared": None,  # as many stages as fit, decided at compile time and asked for at launch
            "matrix": [opcode for opcode in MATRIX if opcode in opcodes],
            "instructions": sorted(opcodes & set(NOTABLE)),
        })  # fmt: skip
    return found


def main() -> int:
    nvcc = shutil.which("nvcc")
    try:
        if nvcc is None:
            raise ValueError("nvcc is not on the PATH")
        include = headers()
        found = []
        for source in kernels():
            for kernel in compile_kernels(source, include, nvcc):
                print(
                    f"{kernel['kernel']}, {kernel['shape']}: {kernel['registers']} registers, {kernel['instructions']}",
                    flush=True,
                )
                found.append(kernel)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"cutlass: {error}", file=sys.stderr)
        return 2
    version = (include / "cutlass" / "version.h").read_text()
    numbers = [re.search(rf"#define CUTLASS_{part}\s+(\d+)", version)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    compiler = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    content = {
        "schema": 1,
        "cutlass": ".".join(numbers),
        "nvcc": re.search(r"release (\S+),", compiler)[1],
        "sources": digest(),
        "kernels": found,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(found)} kernels: {FILE}; write the table by `python -m benchmarks.report`")
    return 1 if any(kernel["spills"] for kernel in found) else 0


if __name__ == "__main__":
    sys.exit(main())
