"""`python -m amt.kernels`: which implementation each op takes on this machine, and why not another.

`python -m amt.kernels tune` measures every attention back end on the card and writes the table that attention chooses by.
"""

from __future__ import annotations

import platform
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amt.errors import UsageError
from amt.startup import Parser, run_program

if TYPE_CHECKING:
    import torch


def main(arguments: Sequence[str] = ()) -> int:
    """Prints or measures; 0, or 2 after one line that names a wrong word or variable."""
    # a library that is not there is what the table explains
    return run_program("amt.kernels", lambda: _main(arguments), unchecked=("AMT_NATIVE_LIBRARY",))


def _main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="python -m amt.kernels", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "command", nargs="?", choices=["tune"], help="measure this card; without it, print what runs here"
    )
    parser.add_argument("--output", type=Path, help="tune: the table's file (default: the card's, in the user's cache)")
    parser.add_argument("--dry", action="store_true", help="tune: two small shapes, on the CPU where there is no card")
    options = parser.parse_args(arguments)
    if options.command is None and (options.output or options.dry):
        raise UsageError("--output and --dry belong to tune: python -m amt.kernels tune")
    if options.command == "tune":
        _tune(options)
    else:
        _show()
    return 0


def _show() -> None:
    import torch

    # each op registers itself
    from amt.kernels import _backend, attention, block, frame_pointnet, hand_frames, normalize, pose_scores, refine  # noqa: F401
    from amt.kernels.attention import rivals
    from amt.kernels.fp8_linear import epilogue  # noqa: F401

    print(f"PyTorch {torch.__version__}, Python {platform.python_version()}, choice {_backend._choice!r} (AMT_KERNELS)")
    print(f"native library: {_library()}")
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
        print(f"GPU: {torch.cuda.get_device_name()}")
    else:
        print("GPU: none that PyTorch can use")
    print(f"Triton's calls as plans, with kernels compiled ahead of time: {_plans(devices[-1])}")
    print("other attention libraries: " + ", ".join(f"{r.name} {r.version or '-'}" for r in rivals.installed()))
    for device in devices:
        for dtype in (torch.float32, torch.bfloat16):
            print(f"\non {device.type}, {str(dtype).removeprefix('torch.')}:")
            for op in _backend.registered():
                for line in _choice_of(op, device, dtype):
                    print(f"  {line}")


def _tune(options: Namespace) -> None:
    import torch

    from amt.kernels.attention.tune import tune

    if not (torch.cuda.is_available() or options.dry):
        raise UsageError("tune: no CUDA card to measure; --dry shows on the CPU that it runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    written = tune(device, options.output, options.dry)
    print(f"written: {written}" if written else "nothing written: name a file with --output")


def _library() -> str:
    import torch

    from amt.kernels import _native

    if _native._reason is not None:
        return f"off, {_native._reason}"
    sets = ("baseline", "AVX2", "AVX-512", "AVX-512 with AMX")
    cuda = "with" if torch.ops.amt.built_with_cuda() else "without"
    return f"built {cuda} CUDA kernels, vector instructions here: {sets[torch.ops.amt.cpu_isa()]}"


def _plans(device: torch.device) -> str:
    from amt.kernels import _triton

    if _triton.INSTALLED:
        from amt.kernels._plans import state

        return state(device)
    return "off: Triton is not installed"


def _choice_of(op: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """What the op takes under the present choice, then every implementation that cannot run here with its reason."""
    from amt.kernels import _backend

    reasons = dict(_backend.explain(op, device, dtype))
    if _backend._choice == "auto":
        taken = next((name for name, reason in reasons.items() if reason is None), "nothing")
    else:
        taken = _backend._choice if reasons.get(_backend._choice, "absent") is None else "nothing: calling it raises"
    off = [f"{'':15} not {name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return [f"{op:15} {taken}", *off]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
