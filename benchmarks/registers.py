"""`python -m benchmarks.registers MANIFEST` takes what `python -m amt.kernels.aot` found into the table of docs/kernels.md.

The table is made of benchmarks/results/aot/sm_90.json, which holds the manifest without its cubins, and of cutlass.json beside
it, which `python -m benchmarks.cutlass` writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.results import FOLDER

FILE = FOLDER / "aot" / "sm_90.json"
ARCHITECTURE = "sm_90"
FIELDS = ("op", "shape", "kernel", "warps", "stages", "registers", "spills", "shared", "matrix")


def take(manifest: Path, path: Path = FILE) -> int:
    """Writes the kernels of the manifest that were compiled for sm_90; returns how many."""
    found = json.loads(manifest.read_text())
    kernels = [
        {field: kernel[field] for field in FIELDS}
        for kernel in found["kernels"]
        if kernel["architecture"] == ARCHITECTURE and "left_out" not in kernel
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, "triton": found["triton"], "kernels": kernels}, indent=1) + "\n")
    return len(kernels)


def table(path: Path = FILE) -> str:
    """The Markdown table, a row for each kernel over all shapes. Raises ValueError where the file is missing or is another."""
    try:
        kernels: dict[tuple[str, str], list[dict]] = {}
        files = (path, path.with_name("cutlass.json"))
        for kernel in [
            k for file in files if file.exists() or file == path for k in json.loads(file.read_text())["kernels"]
        ]:
            kernels.setdefault((kernel["op"], kernel["kernel"].removesuffix("_kernel")), []).append(kernel)
        rows = [
            [
                f"`{op}`",
                name,
                str(len(shapes)),
                _range(shapes, "registers") + (", spills" if any(k["spills"] for k in shapes) else ""),
                "what fits" if shapes[0]["shared"] is None else _range(shapes, "shared"),
                " or ".join(dict.fromkeys(" ".join(k["matrix"]) or "–" for k in shapes)),
            ]
            for (op, name), shapes in kernels.items()
        ]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path.name}: cannot be read ({error}); run `python -m amt.kernels.aot`, then this"
        ) from error
    head = ["op", "kernel", "shapes", "registers", "shared, bytes", "matrix instructions"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _range(kernels: list[dict], field: str) -> str:
    least, most = (choose(kernel[field] for kernel in kernels) for choose in (min, max))
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("registers: expected one file, the manifest.json of `python -m amt.kernels.aot`", file=sys.stderr)
        return 2
    try:
        print(f"{take(Path(arguments[0]))} kernels: {FILE}; write the table by `python -m benchmarks.report`")
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        print(f"registers: {arguments[0]} is no manifest ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
