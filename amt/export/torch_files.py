"""PyTorch's own forms: the traced program, and the library that AOTInductor compiles of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from amt.export.formats import ExportError
from amt.kernels._torch_private import aoti_compile_and_package


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Writes the program for ``torch.export.load``, which needs nothing of this package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)


def write_package(program: torch.export.ExportedProgram, path: Path) -> None:
    """Compiles the program for this machine's kind of processor, or for the card that its tensors lie on.

    Raises:
        ExportError: the compiler is missing or fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aoti_compile_and_package(program, str(path))
    except RuntimeError as error:  # InductorError is one
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"--to aoti: cannot be compiled ({reason}); install a C++ compiler (g++)") from error
