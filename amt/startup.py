"""What a program does before PyTorch loads. Imports nothing heavy."""

from __future__ import annotations

import os

SPINS = 3000  # GNU's OpenMP spins 300,000 times by itself
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def bound_spin() -> None:
    """Lets idle OpenMP threads sleep after a short spin, unless the user has chosen by a variable of :data:`CHOSEN`.

    Threads that spin hold cores that the thread they wait for may need. OpenMP reads the variable when it is loaded, so this has
    to come before PyTorch. docs/log.md has the measurements behind the number (2026-11-28).
    """
    if not any(name in os.environ for name in CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
