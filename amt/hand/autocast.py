"""Coordinates are computed outside autocast: in bf16 a metre has steps of 4 - 8 mm."""

from amt.kernels._autocast import no_autocast

__all__ = ["no_autocast"]
