"""Export: ``python -m amt.export CHECKPOINT --to FORMAT --out DIR`` writes the network for other runtimes.

``open_export(DIR)`` runs what was written, whatever its format, on NumPy arrays.
"""

from importlib import import_module

_HOMES = {"ExportError": "amt.export.formats", "Export": "amt.export.opened", "open_export": "amt.export.opened"}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Imports a public name at its first use: a wrong command line is told before PyTorch loads."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
