"""Whether a Triton kernel can run: on a GPU, or on the CPU in Triton's interpreter (TRITON_INTERPRET=1, for tests)."""

from __future__ import annotations

import importlib.util
import os

import torch

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """Why no Triton kernel can run on ``device``; ``None`` where it can."""
    if not INSTALLED:
        return "Triton is not installed: `pip install triton`"
    if device.type == "cuda" or (INTERPRETED and device.type == "cpu"):
        return None
    return "it runs on CUDA tensors only (on the CPU with TRITON_INTERPRET=1, slowly)"
