"""What can be chosen about a training run. Hydra composes and checks it; after the door these are plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from amt.data.loader import DataConfig
from amt.kernels._backend import CHOICES
from amt.model.config import ConfigError, ModelConfig
from amt.train.losses import LossConfig


@dataclass
class TrainConfig:
    """The optimisation."""

    output: str = "runs/train"  # folder of the logs, the resumable states and the loss curves
    checkpoint: str | None = None  # folder of the result; None: ``output``/checkpoint
    steps: int = 20_000
    minutes: float | None = None  # end after this time at the latest, the learning rate's decay drawn in to fit
    batch_size: int = 32
    optimizer: str = "muon"  # for convolutions and transformer blocks that start from nothing, else AdamW; or "adamw"
    lr: float = 1e-3  # AdamW's, at the top of the schedule
    muon_lr: float = 4e-3  # Muon's, at the top of the same schedule
    min_lr: float = 1e-6
    warmup_steps: int = 100
    weight_decay: float = 0.02
    clip_norm: float = 5.0
    precision: str = "float32"  # or "bf16": autocast; coordinates stay float32
    seed: int = 0
    threads: int = 0  # CPU threads; 0 leaves PyTorch's choice
    device: str = "auto"  # "auto", "cpu", "cuda" or "cuda:N"
    save_every: int = 500  # steps between resumable states
    keep: int = 2  # resumable states kept
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self):
        for name in ("steps", "batch_size", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("lr", "muon_lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name} must be above 0; got {getattr(self, name)}")
        for name in ("min_lr", "warmup_steps", "weight_decay", "threads", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} must not be negative; got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"train.minutes must be above 0; got {self.minutes}")
        if self.optimizer not in ("muon", "adamw"):
            raise ConfigError(f"train.optimizer must be muon or adamw; got {self.optimizer!r}")
        if self.precision not in ("float32", "bf16"):
            raise ConfigError(f"train.precision must be float32 or bf16; got {self.precision!r}")


@dataclass
class KernelsConfig:
    """Which implementation of the ops runs."""

    use: str = "auto"

    def __post_init__(self):
        if self.use not in CHOICES:
            raise ConfigError(f"kernels.use must be one of {', '.join(CHOICES)}; got {self.use!r}")


@dataclass
class Config:
    """Everything. ``data.crop.size`` follows ``model.crop_size``."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    kernels: KernelsConfig

    def __post_init__(self):
        self.data = replace(self.data, crop=replace(self.data.crop, size=self.model.crop_size))
