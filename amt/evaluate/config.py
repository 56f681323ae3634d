"""What can be chosen about an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from amt.data.layout import SUBSETS


@dataclass
class EvaluateConfig:
    """Which frames are scored, and where the figures go."""

    subset: str = "test"
    batch_size: int = 64
    output: str | None = None  # the file of the figures; None: metrics.json in the checkpoint's folder
    device: str = "auto"
    threads: int = 0  # CPU threads; 0 leaves PyTorch's choice

    def __post_init__(self):
        if self.subset not in SUBSETS:
            raise ValueError(f"evaluate.subset must be one of {', '.join(SUBSETS)}; got {self.subset!r}")
        if self.batch_size < 1:
            raise ValueError(f"evaluate.batch_size must be at least 1; got {self.batch_size}")
        if self.threads < 0:
            raise ValueError(f"evaluate.threads must not be negative; got {self.threads}")
