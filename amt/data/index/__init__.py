"""The index of a set: one pass over its tree, with every frame's state and every problem with its reason.

``build_index(folder)`` gives an :class:`Index`; ``python -m amt.data.index FOLDER`` prints it.
"""

from importlib import import_module

__all__ = ["Index", "build_index"]


def __getattr__(name: str):
    """Imports a public name at its first use: a wrong command line is told before PyTorch loads."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.build"), name)
