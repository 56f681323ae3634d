"""What ``key=value`` words can change in amt.export, beside its options. Imports no PyTorch."""

from __future__ import annotations

from amt.config import Program

PROGRAM = Program("export", takes=("model.hand", "data*", "kernels*"), without=("data.augment*", "data.crop*"))
