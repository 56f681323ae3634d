"""What every program tells in one line. Any other exception is a fault of the code and ends in a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user gave or asked for cannot be had; the message is one line that names it and the remedy.

    The errors of configuration, data, input, output, checkpoints and implementations derive from it, each in its package.
    """


class UsageError(UserError, ValueError):
    """A word of a command line, an environment variable or an argument is wrong."""
