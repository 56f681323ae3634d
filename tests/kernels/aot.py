"""One kernel for sm_90 by its parts, for tests that choose its arguments and constants by hand."""

from __future__ import annotations

from amt.kernels._triton import Launch
from amt.kernels.aot import Code, compile_launch


def compile_for_hopper(
    kernel, arguments: tuple, constants: dict, warps: int, stages: int, registers: int | None = None
) -> Code:
    return compile_launch(Launch(kernel, arguments, constants, warps, stages, registers))
