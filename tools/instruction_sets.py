"""``python -m tools.instruction_sets`` prints the values of AMT_CPU_ISA below this machine's own: `make test` tries each."""

import torch

from amt.kernels import _native

if _native.missing("refine", "cpu") is None:
    print(*range(torch.ops.amt.cpu_isa()))
