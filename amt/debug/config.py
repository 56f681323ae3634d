"""The configuration of a debugging run. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from amt.config import Program
from amt.data.layout import SUBSETS
from amt.model.config import ConfigError


@dataclass
class DebugConfig:
    """Which frames the model is shown, and where the page goes."""

    subset: str = "val"  # train, val or test
    batch_size: int = 16  # images of the batch whose activations and gradients are looked at; at least 2
    hands: int = 256  # whose predictions are compared with each other; at least 8
    output: str | None = None  # the page; None: debug.html beside the checkpoint's folder
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    threads: int = 0  # CPU threads; 0 leaves PyTorch's choice

    def __post_init__(self):
        if self.subset not in SUBSETS:
            raise ConfigError(f"debug.subset must be one of {', '.join(SUBSETS)}; got {self.subset!r}")
        for name, least in (("batch_size", 2), ("hands", 8), ("threads", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"debug.{name} must be at least {least}; got {getattr(self, name)}")


PROGRAM = Program(
    "debug",
    {"debug": DebugConfig},
    takes=("model.hand", "data*", "debug.*", "kernels*"),
    without=("data.augment*",),
)
