"""What ``key=value`` words can change in amt.infer, beside its options. Imports neither PyTorch nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from amt.config import Program
from amt.model.config import AUTO, BLOCKS, PRECISIONS, ConfigError

MAX_SPREAD = 0.08  # amt.infer.locate says how it was measured

ENGINES = ("auto", "eager", "trace", "compile")
LOCATORS = ("model", "mediapipe", "window")


@dataclass(frozen=True)
class InferConfig:
    """How pictures are looked at."""

    max_spread: float = MAX_SPREAD  # 0-1: share of the crop that a joint's map may cover; above it no hand is found
    locator: str = "model"  # what finds hands: model (the checkpoint's, or the one that ships), mediapipe, or window
    mediapipe: str | None = None  # the wheel of mediapipe 0.10.21, or a folder with its .tflite files
    smooth: bool = True  # whether hands that a locator finds in a video are smoothed over its frames
    fit: bool = False  # whether the exported MANO parameters are fitted to the refined joints
    threads: int = 0  # CPU threads; 0 leaves PyTorch's choice, less one for the other stages in a video that is drawn
    # auto: convolutions in bfloat16 on a CPU that has it, all else in float32; te and torchao: FP8 by these packages
    precision: str = AUTO  # bf16: autocast; fp8: e4m3 products in the blocks' QKV and MLPs, emulated if need be
    # auto: a small model on a CPU is traced in a long run; trace: at once; compile: torch.compile, in batches of fixed size
    engine: str = "auto"
    blocks: str = "auto"  # of a block: stock, fused, fused_gelu, fused_tanh, fused_cutlass; auto: by the card's table

    def __post_init__(self):
        if self.blocks not in BLOCKS:
            raise ConfigError(f"infer.blocks must be one of {', '.join(BLOCKS)}; got {self.blocks!r}")
        if not 0 < self.max_spread <= 1:
            raise ConfigError(f"infer.max_spread must be above 0 and at most 1; got {self.max_spread}")
        if self.precision not in (AUTO, *PRECISIONS):
            raise ConfigError(
                f"infer.precision must be one of {', '.join((AUTO, *PRECISIONS))}; got {self.precision!r}"
            )
        if self.locator not in LOCATORS:
            raise ConfigError(f"infer.locator must be one of {', '.join(LOCATORS)}; got {self.locator!r}")
        if self.engine not in ENGINES:
            raise ConfigError(f"infer.engine must be one of {', '.join(ENGINES)}; got {self.engine!r}")
        if self.threads < 0:
            raise ConfigError(f"infer.threads must not be negative; got {self.threads}")


PROGRAM = Program("infer", {"infer": InferConfig}, takes=("model.hand", "data.mano", "infer.*", "kernels*"))
