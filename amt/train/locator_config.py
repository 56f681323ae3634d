"""The configuration of the locator's training. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from amt.model.config import ConfigError

DEFAULT_STEPS = 4000  # of the command python -m amt.train.locator


@dataclass
class LocatorTraining:
    """The phase after the model's own in which it learns to find hands. It changes nothing of the model."""

    steps: int | None = None  # of the optimizer; null: 4000 by python -m amt.train.locator, none by python -m amt.train
    minutes: float | None = None  # it ends after this time at the latest, reading included; the rate decays to fit
    batch_size: int = 16  # pictures a step
    frames: int = 4096  # of the set at most, spread evenly; 0.3 MB of memory each
    lr: float = 4e-3  # AdamW's peak
    muon_lr: float = 1e-2  # Muon's peak, for the convolutions

    def __post_init__(self):
        for name, least in (("batch_size", 2), ("frames", 1), ("steps", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ConfigError(f"train.locator.{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("minutes", "lr", "muon_lr"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"train.locator.{name} must be above 0; got {getattr(self, name)}")
