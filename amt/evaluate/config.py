"""The configuration of an evaluation. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from amt.config import Program
from amt.data.layout import PROTOCOL_NAMES, SUBSETS
from amt.model.config import ConfigError

BOXES = ("truth", "located")
NO_REPORT = ("off", "false")


@dataclass
class EvaluateConfig:
    """Which frames are scored, and where the figures go."""

    subset: str = "test"  # train, val or test
    protocol: str | None = None  # T, V, R, F or X: only the frames that it scores; None: data.protocol
    box: str = "truth"  # truth: crops of the true boxes, as in papers; located: of the boxes that a locator finds
    batch_size: int = 64  # crops that go through the model at once
    output: str | None = None  # the file of the figures; None: metrics.json in the checkpoint's folder
    report: str | None = None  # the page; None: report.html beside the figures; off: none
    write: str | None = None  # a folder for result files in the forms of other evaluators
    rerun: str | None = None  # a recording of every scored frame for the Rerun viewer, FILE.rrd; needs amt[rerun]
    results: str | None = None  # anybody's result file, which is scored in place of a checkpoint
    physics: bool = False  # also depth, volume, contact and hold of every grasp beside the labels'; needs amt[physics]
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    threads: int = 0  # CPU threads; 0 leaves PyTorch's choice

    def __post_init__(self):
        if self.subset not in SUBSETS:
            raise ConfigError(f"evaluate.subset must be one of {', '.join(SUBSETS)}; got {self.subset!r}")
        if self.protocol not in (None, *PROTOCOL_NAMES):
            raise ConfigError(
                f"evaluate.protocol must be one of {', '.join(PROTOCOL_NAMES)}, or null; got {self.protocol!r}"
            )
        if self.box not in BOXES:
            raise ConfigError(f"evaluate.box must be one of {', '.join(BOXES)}; got {self.box!r}")
        if self.batch_size < 1:
            raise ConfigError(f"evaluate.batch_size must be at least 1; got {self.batch_size}")
        if self.threads < 0:
            raise ConfigError(f"evaluate.threads must not be negative; got {self.threads}")


# Crops are shown as they were cut, and the checkpoint decides the model but for the place of MANO's file.
PROGRAM = Program(
    "evaluate",
    {"evaluate": EvaluateConfig},
    takes=("model.hand", "data*", "evaluate.*", "kernels*"),
    without=("data.augment*",),
)
