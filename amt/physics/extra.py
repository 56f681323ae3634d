"""What the extra ``physics`` installs: MuJoCo, CoACD and manifold3d, imported when they are first needed."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from amt.errors import UserError

PACKAGES = ("mujoco", "coacd", "manifold3d")


class MissingExtra(UserError, ImportError):
    """A package of the extra ``physics`` is not installed."""


@cache
def package(name: str) -> ModuleType:
    """A package of the extra by its name. Raises MissingExtra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise MissingExtra(f"amt.physics: {name} {reason}; pip install amt[physics]") from error
