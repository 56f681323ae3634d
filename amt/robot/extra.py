"""What the extra ``robot`` installs: MuJoCo and mink, imported when they are first needed."""

from __future__ import annotations

from importlib.util import find_spec

from amt.errors import UserError

PACKAGES = ("mujoco", "mink", "daqp")


class RobotError(UserError, ValueError):
    """A robot's hand cannot be used; one line that names it and the remedy."""


def check_extra(option: str = "--retarget") -> None:
    """Raises RobotError where a package is missing."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise RobotError(f"{option}: the package {name} is not installed; pip install amt[robot] brings it")
